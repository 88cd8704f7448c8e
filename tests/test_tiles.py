"InternVL cuts a picture into tiles: as many as its boxes say, kept with the checkpoint, and any decoder may look at them."
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import InternVLConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.records import VQARecord
from drivekd.distill.hooks import capture_attention
from drivekd.models.batching import Batcher
from drivekd.models.families import FAMILIES
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import VLM, evaluating, load_vlm, save_vlm
from drivekd.models.miniature import random_model

TEXTS = ["What is the moving status of <c1,CAM_FRONT,0.4678,0.6772>? Which object is near? It is moving ahead. Final: B. Turn left."] * 9


@pytest.fixture(scope="module")
def own(): return miniature_vlm("internvl", TEXTS, vocab_size=400)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about two, no, and one picture, of two, two and one tiles."
    folder, random, refs = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i, (width, height) in enumerate([(160, 80), (70, 140), (120, 120)]):
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
        refs.append(ImageRef(None, folder / f"{i}.png"))
    def record(id, images):
        turns = (Turn("user", "<image>" * len(images) + "Which is near?"), Turn("assistant", "Final: B."))
        return VQARecord(id, tuple(images), turns, "perception", (), "drivekd", 0)
    return [record("two", refs[:2]), record("none", ()), record("one", refs[2:])]


@pytest.mark.parametrize("size, grid", [((1600, 900), (2, 4)), ((900, 1600), (4, 2)), ((640, 480), (3, 4)), ((448, 448), (1, 1)), ((100, 1000), (10, 1))], ids=str)
def test_a_picture_is_cut_into_the_tiles_that_its_boxes_say(own, size, grid):
    family, processor = own.family, MINIATURES["internvl"].processor(TEXTS, 300)
    processor.image_processor, processor.image_seq_length = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}), 256
    family.cut(processor, 12)
    tiles, patches = len(family.picture_inputs(processor, Image.new("RGB", size))["pixel_values"]), family.patches(processor, [size])
    thumbnail = grid != (1, 1)
    assert family.grid(processor, size) == grid and tiles == grid[0] * grid[1] + thumbnail
    assert len(patches) == 256 * tiles and patches.overview.sum() == 256 * thumbnail and patches.overview[-1] == thumbnail


def test_tiles_are_chosen_when_a_checkpoint_is_loaded_and_kept_with_it(own, records, tmp_path):
    save_vlm(own, tmp_path / "one")
    tokens = {tiles: len(Batcher(load_vlm(tmp_path / "one", max_tiles=tiles)).encode(records[0]).patches) for tiles in (None, 1, 4)}
    assert tokens == {None: 128, 1: 128, 4: 384}
    save_vlm(load_vlm(tmp_path / "one", max_tiles=4), tmp_path / "four")
    assert len(Batcher(load_vlm(tmp_path / "four")).encode(records[0]).patches) == 384


@pytest.mark.parametrize("family, tiles, reason", [("qwen3_vl", 4, "has none"), ("mllama", 5, "1 to 4.* pass 1 … 4"), ("mllama", 0, "1 to 4"), ("internvl", 0, "at least 1.* pass max_tiles=1 … 12")])
def test_tiles_that_cannot_be_are_refused(family, tiles, reason):
    with pytest.raises(ValueError, match=reason): FAMILIES[family]().cut(None, tiles)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    "InternVL3.5: another decoder behind the same tower; here up to four tiles a picture."
    processor, folder = MINIATURES["internvl"].processor(TEXTS, 400), tmp_path_factory.mktemp("cut")
    config = MINIATURES["internvl"].config("student", processor).to_dict()
    config["text_config"] |= dict(model_type="qwen3", head_dim=16)
    model = random_model(InternVLConfig.from_dict(config), processor.tokenizer)
    return load_vlm(save_vlm(VLM(model, processor, FAMILIES["internvl"]()), folder), max_tiles=4)


def test_internvl_3_5_is_internvl_with_another_decoder(cut):
    assert cut.model.config.text_config.model_type == "qwen3" and hasattr(cut.attention_modules[0], "q_norm")


def test_tiled_pictures_have_the_tokens_of_transformers_own_processor(cut, records):
    batch = Batcher(cut)(records[:1])
    chat = [dict(role="user", content=[*[dict(type="image")] * 2, dict(type="text", text="Which is near?")]), dict(role="assistant", content="Final: B.")]
    theirs = cut.processor(text=cut.processor.apply_chat_template(chat, tokenize=False), images=[Image.open(ref.path) for ref in records[0].images],
                           return_tensors="pt", add_special_tokens=False, max_patches=4)
    assert all(torch.equal(batch.model_inputs()[name], x) for name, x in theirs.items()) and len(theirs["pixel_values"]) == 6


@pytest.mark.parametrize("side", ["left", "right"])
def test_maps_of_pictures_with_unequal_tiles_are_those_of_eager_attention(cut, records, side):
    batch = Batcher(cut, padding_side=side)(records)
    real = batch.attention_mask.bool()
    assert batch.vision_mask.sum(1).tolist() == [len(e.patches) for e in batch.encoded] == [64 * (3 + 3), 0, 64] and len(batch.picture_inputs["pixel_values"]) == 7
    with evaluating(cut):
        with capture_attention(cut, [0, 2]) as maps: logits = cut.model(**batch.model_inputs()).logits
        cut.model.set_attn_implementation("eager")
        wanted = cut.model(**batch.model_inputs(), output_attentions=True).attentions
        cut.model.set_attn_implementation("sdpa")
        for layer in maps: torch.testing.assert_close(maps[layer][real], wanted[layer].mean(1)[real], atol=1e-6, rtol=0)
        for i, record in enumerate(records):
            torch.testing.assert_close(logits[i][real[i]], cut.model(**Batcher(cut)([record]).model_inputs()).logits[0], atol=1e-4, rtol=1e-4)
