"Every family: its tokens look where we say, its maps are the model's own, its tower freezes, and its students learn."
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.jsonfiles import read_log
from drivekd.data.records import VQARecord
from drivekd.distill.hooks import capture_attention
from drivekd.distill.lengths import token_counts
from drivekd.distill.trainer import DistillationConfig, distill
from drivekd.models.batching import Batcher
from drivekd.models.families import FAMILIES
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import evaluating, freeze, load_vlm, save_vlm
from drivekd.models.vision import VisionCache
from drivekd.study.gaze import gaze

CAPABILITIES = ("perception", "reasoning", "planning")
TEXTS = ["What is the moving status of <c1,CAM_FRONT,0.4678,0.6772>? Which object is near? It is moving ahead. Final: B. Turn left."] * 9


# the table: a family is one row

@dataclass(frozen=True)
class Row:
    "What a family's tests need to know besides its class and its miniature"
    images: Callable  # the image processor of the published checkpoints
    light: Callable  # image processor, inputs of one picture -> mean pixel value of each vision token [v]
    call: dict = field(default_factory=dict)  # what transformers' processor must be told to read pictures as its image processor is set
    places: int | None = None  # vision tokens of a picture of the miniature, where tiles that it does not fill have some too
    tiles: tuple = (None,)  # settings of `max_tiles` to try; None: as the processor says


def light_of_tiles(images, inputs):
    "Each tile is a square of 16 × 16 tokens."
    tiles = inputs["pixel_values"].mean(1)
    return tiles.unflatten(2, (16, -1)).unflatten(1, (16, -1)).mean((2, 4)).flatten()


def light_of_patches(images, inputs):
    "Each token is four patches in a row."
    return inputs["pixel_values"].mean(1).view(-1, images.merge_size ** 2).mean(1)


def light_of_tiles_and_classes(images, inputs):
    "Each tile that the picture reaches has a class token, of no pixels in particular, then 40 × 40 patches."
    tiles = inputs["pixel_values"][0].mean(1)[inputs["aspect_ratio_mask"][0].bool()]
    patches = tiles.unflatten(2, (40, -1)).unflatten(1, (40, -1)).mean((2, 4)).flatten(1)
    return torch.cat([torch.full((len(patches), 1), torch.nan), patches], 1).flatten()


CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

# sizes and means as in preprocessor_config.json of OpenGVLab/InternVL3-1B-hf, Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen3-VL-2B-Instruct
# and meta-llama/Llama-3.2-11B-Vision-Instruct
ROWS = {
    "internvl": Row(lambda: GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=False), light_of_tiles,
                    dict(crop_to_patches=False), tiles=(None, 12)),
    "qwen2_5_vl": Row(lambda: Qwen2VLImageProcessorPil(patch_size=14, min_pixels=3136, max_pixels=12845056), light_of_patches),
    "qwen3_vl": Row(lambda: Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216},
                                                     image_mean=[.5] * 3, image_std=[.5] * 3), light_of_patches),
    "mllama": Row(lambda: MllamaImageProcessorPil(size={"height": 560, "width": 560}, max_image_tiles=4, image_mean=CLIP_MEAN, image_std=CLIP_STD),
                  light_of_tiles_and_classes, places=4 * 65, tiles=(None, 1)),
}
each_family = pytest.mark.parametrize("family", ROWS)


def test_every_family_has_a_miniature_and_a_row(): assert set(FAMILIES) == set(MINIATURES) == set(ROWS)


# where tokens look

SIZES = [(1600, 900), (450, 800), (641, 479), (100, 333), (40, 30)]  # a camera, upright, odd, narrow, smaller than Qwen's minimum


@pytest.fixture(scope="module")
def real():
    "A family's processor with the image processor of the published checkpoints."
    made = {}
    def of(family, tiles=None):
        if (family, tiles) not in made:
            processor = MINIATURES[family].processor(TEXTS, 300)
            processor.image_processor = ROWS[family].images()
            if family == "internvl": processor.image_seq_length = 256
            if tiles: FAMILIES[family]().cut(processor, tiles)
            made[family, tiles] = FAMILIES[family](), processor
        return made[family, tiles]
    return of


each_view = pytest.mark.parametrize("family, tiles", [(name, tiles) for name, row in ROWS.items() for tiles in row.tiles])


def lit(size, *spots):
    "A black picture with bright boxes, given in fractions; also the boxes in fractions after rounding to pixels."
    picture, around = Image.new("RGB", size), np.tile(size, 2)
    boxes = [(spot * around).round().astype(int) for spot in map(np.array, spots)]
    for box in boxes: picture.paste("white", tuple(map(int, box)))
    return picture, [box / around for box in boxes]


def covered(boxes, box):
    "The share of each box [v, 4] that lies inside `box`."
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    return np.clip(high - low, 0, None).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-12)


def brightness(family, processor, picture):
    "How bright each vision token's pixels are, 0 black, 1 white."
    def light(image): return ROWS[family.model_type].light(processor.image_processor, family.picture_inputs(processor, image)).numpy()
    black, white = np.nanmin(light(Image.new("RGB", (56, 56)))), np.nanmax(light(Image.new("RGB", (56, 56), "white")))
    return (light(picture) - black) / (white - black)


SPOTS = [(.1, .2, .35, .5), (.7, .15, .95, .4), (.5, .6, .75, .9)]


@each_view
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_bright_spot_is_bright_in_the_tokens_whose_boxes_it_covers(real, family, tiles, size):
    family, processor = real(family, tiles)
    picture, boxes = lit(size, *SPOTS)
    patches = family.patches(processor, [size])
    seen, expected = brightness(family, processor, picture), sum(covered(patches.boxes, box) for box in boxes)
    assert seen.shape == expected.shape and not patches.picture.any()
    assert np.nanmax(np.abs(seen - expected)) < .25 and np.nanmean(np.abs(seen - expected)) < .02  # resizing blurs the edges
    assert expected[np.nanargmax(seen)] == pytest.approx(min(1, expected.max()))


@each_view
def test_each_of_several_pictures_has_its_own_tokens(real, family, tiles):
    family, processor = real(family, tiles)
    sizes = SIZES[2:]
    pictures, boxes = zip(*(lit(size, spot) for size, spot in zip(sizes, SPOTS, strict=True)), strict=True)
    patches = family.patches(processor, sizes)
    seen = np.concatenate([brightness(family, processor, picture) for picture in pictures])
    assert len(patches) == len(seen) and patches.picture.tolist() == sorted(patches.picture) and set(patches.picture) == {0, 1, 2}
    for i, (box,) in enumerate(boxes):
        of = patches.picture == i
        assert np.nanmean(np.abs(seen[of] - covered(patches.boxes[of], box))) < .02


@each_view
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_boxes_of_a_picture_fill_it_once(real, family, tiles, size):
    family, processor = real(family, tiles)
    patches = family.patches(processor, [size])
    boxes = patches.boxes[~patches.overview]
    assert (boxes >= 0).all() and (boxes <= 1).all() and np.isclose((boxes[:, 2:] - boxes[:, :2]).prod(1).sum(), 1)
    points = np.random.default_rng(0).random((50, 1, 2))
    assert (((boxes[:, :2] <= points) & (points < boxes[:, 2:])).all(2).sum(1) == 1).all()


# the miniatures

@pytest.fixture(scope="module")
def vlm():
    "A family's miniature, made once; nobody may change it."
    made = {}
    def of(family, size="student", seed=0):
        if (key := (family, size, seed)) not in made: made[key] = miniature_vlm(family, TEXTS, size, seed, vocab_size=400)
        return made[key]
    return of


@pytest.fixture
def own(vlm):
    "A copy of a family's miniature that a test may change."
    return lambda family: deepcopy(vlm(family))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about two, no, and one picture, none of one shape."
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    refs = []
    for i, (width, height) in enumerate([(160, 90), (70, 130), (121, 99)]):
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
        refs.append(ImageRef(None, folder / f"{i}.png"))
    def record(id, images, question, answer, capability):
        turns = (Turn("user", "<image>" * len(images) + question), Turn("assistant", answer))
        return VQARecord(id, tuple(images), turns, capability, (), "drivekd", 0)
    return [record("two", refs[:2], "Which is near?", "Final: B.", "perception"), record("none", (), "What is it?", "It is moving ahead.", "reasoning"),
            record("one", refs[2:], "Turn left? <c1,CAM_FRONT,0.4678,0.6772>", "No.", "planning")]


@each_family
def test_tokens_and_picture_inputs_are_those_of_transformers_own_processor(vlm, records, family):
    vlm = vlm(family)
    for record in (records[0], records[2]):
        batch = Batcher(vlm)([record])
        question = [dict(role="user", content=[*[dict(type="image")] * len(record.images), dict(type="text", text=record.question)]),
                    dict(role="assistant", content=record.turns[1].text)]
        text = vlm.processor.apply_chat_template(question, tokenize=False)
        theirs = vlm.processor(text=text, images=[Image.open(ref.path) for ref in record.images], return_tensors="pt", add_special_tokens=False, **ROWS[family].call)
        ours = batch.model_inputs()
        assert ours.keys() == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def own_part(vlm, batch, i, layer, map):
    "A sample's own rows and columns of a layer's map; of cross-attention the rows that see something and the keys in sight."
    rows = columns = batch.attention_mask[i].bool()
    if not vlm.attention_modules[layer].is_causal: rows, columns = batch.sight[i].any(1), batch.columns(i)
    return map[i][rows][:, columns]


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_maps_are_those_of_eager_attention_and_padding_changes_nothing(vlm, records, family, side):
    vlm = vlm(family)
    batch = Batcher(vlm, padding_side=side)(records)
    real, layers = batch.attention_mask.bool(), range(len(vlm.llm_layers))
    with evaluating(vlm):
        with capture_attention(vlm, layers) as maps: logits = vlm.model(**batch.model_inputs()).logits
        vlm.model.set_attn_implementation("eager")
        wanted = vlm.model(**batch.model_inputs(), output_attentions=True)
        vlm.model.set_attn_implementation("sdpa")
        for layer in layers: torch.testing.assert_close(maps[layer][real], wanted.attentions[layer].mean(1)[real], atol=1e-6, rtol=0)
        torch.testing.assert_close(logits[real], wanted.logits[real], atol=1e-4, rtol=1e-4)
        for i, record in enumerate(records):
            alone = Batcher(vlm)([record])
            with capture_attention(vlm, layers) as own: vlm.model(**alone.model_inputs())
            for layer in layers:
                torch.testing.assert_close(own_part(vlm, batch, i, layer, maps[layer]), own_part(vlm, alone, 0, layer, own[layer]), atol=1e-5, rtol=0)


@each_family
def test_checkpointed_maps_teach_the_same(own, family, records):
    gradients = []
    for checkpointing in (False, True):
        vlm = own(family)
        vlm.model.train()
        if checkpointing: vlm.model.activation_checkpointing_enable({"use_reentrant": False})
        with capture_attention(vlm, [0, 1, 2]) as maps:
            vlm.model(**Batcher(vlm)(records).model_inputs(), use_cache=False)
            sum((m ** 2).sum() for m in maps.values()).backward()
        gradients.append({n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None})
    plain, saved = gradients
    assert plain.keys() == saved.keys() and any("language_model.layers.1" in n for n in plain)
    for name in plain: torch.testing.assert_close(plain[name], saved[name], atol=1e-5, rtol=1e-4)


@each_family
def test_a_teacher_stops_after_the_last_layer_it_is_asked_for(vlm, records, family):
    vlm, ran = vlm(family), []
    handles = [layer.register_forward_pre_hook(lambda *a, i=i: ran.append(i)) for i, layer in enumerate(vlm.llm_layers)]
    with evaluating(vlm), capture_attention(vlm, [1], stop=True) as maps: vlm.model(**Batcher(vlm)(records).model_inputs(), use_cache=False)
    for handle in handles: handle.remove()
    assert ran == [0, 1] and maps.keys() == {1}


@each_family
def test_a_frozen_tower_leaves_the_language_model_to_learn(own, family):
    vlm = own(family)
    freeze(vlm, "vision")
    learns = {n for n, p in vlm.model.named_parameters() if p.requires_grad}
    language = {id(p) for p in (*vlm.family.language_model(vlm.model).parameters(), *vlm.model.get_output_embeddings().parameters())}
    assert learns == {n for n, p in vlm.model.named_parameters() if id(p) in language} and len(learns) < len(list(vlm.model.parameters()))


@each_family
def test_a_token_tells_most_of_what_is_in_its_box(vlm, family):
    vlm, size = vlm(family), (224, 96)
    patches = vlm.family.patches(vlm.processor, [size])
    grey = Image.fromarray(np.random.default_rng(1).integers(90, 160, (96, 224, 3), np.uint8))
    def seen(image):
        with evaluating(vlm): tokens = vlm.family.vision_tokens(vlm.model, vlm.family.picture_inputs(vlm.processor, image))
        return tokens.reshape(ROWS[family].places or len(patches), -1)[:len(patches)]
    plain, extent = seen(grey), (patches.boxes[:, 2:] > patches.boxes[:, :2]).all(1)
    for token in np.flatnonzero(extent & ~patches.overview)[::5]:
        left, top, right, bottom = (patches.boxes[token] * np.tile(size, 2)).round().astype(int)
        changed = grey.copy()
        changed.paste("white", (left, top, right, bottom))
        assert (seen(changed) - plain).norm(dim=1).masked_fill(torch.from_numpy(patches.overview), 0).argmax() == token


@each_family
def test_kept_features_are_as_good_as_pixels(own, records, family):
    vlm = own(family)
    freeze(vlm, "vision")
    batch, cache = Batcher(vlm)(records), VisionCache(vlm, gigabytes=1)
    with torch.no_grad():
        plain, kept = vlm.model(**batch.model_inputs()).logits, [vlm.model(**cache.inputs(batch)).logits for _ in range(2)]
    assert cache.misses == cache.hits == 3 and torch.equal(*kept)
    torch.testing.assert_close(plain, kept[0], atol=1e-4, rtol=1e-4)


@each_family
def test_a_student_learns_from_a_teacher_of_its_family(vlm, own, records, family, tmp_path):
    student, teachers = own(family), dict.fromkeys(CAPABILITIES, vlm(family, "teacher", 1))
    before = {n: p.clone() for n, p in student.model.named_parameters()}
    distill(student, teachers, records, DistillationConfig(str(tmp_path), max_steps=3, per_device_train_batch_size=3, use_cpu=True, save_strategy="no",
                                                           disable_tqdm=True, learning_rate=3e-3, vision_cache=.1))
    log = read_log(tmp_path / "telemetry.jsonl")
    assert log[0]["losses"].keys() == {"ce", *CAPABILITIES} and log[-1]["losses"]["ce"] < log[0]["losses"]["ce"]
    moved = {n for n, p in student.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "language_model" in n or "lm_head" in n}


@each_family
def test_answers_in_a_padded_batch_are_those_given_alone(vlm, records, family):
    vlm = vlm(family)
    options = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=vlm.processor.tokenizer.pad_token_id)
    with evaluating(vlm):
        def answer(chosen):
            batch = Batcher(vlm, padding_side="left")(chosen, prompt=True)
            return vlm.model.generate(**batch.model_inputs(), **options)[:, batch.input_ids.shape[1]:]
        together = answer(records)
        for i, record in enumerate(records): assert torch.equal(together[i], answer([record])[0])


@each_family
def test_half_precision_answers_with_logits_near_those_of_full(vlm, records, family):
    vlm = vlm(family)
    half = replace(vlm, model=deepcopy(vlm.model).bfloat16())
    batch = Batcher(vlm, padding_side="left")(records, prompt=True)
    with evaluating(vlm), evaluating(half):
        full = vlm.model(**batch.model_inputs()).logits[:, -1]
        out = half.model.generate(**batch.model_inputs(), max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_logits=True)
    assert half.model.dtype == torch.bfloat16 and out.sequences.shape == (len(records), batch.input_ids.shape[1] + 3) and all(x.isfinite().all() for x in out.logits)
    assert (out.logits[0].float() - full).abs().max() < 0.05 * full.abs().max()  # bfloat16 keeps 8 bits


@each_family
def test_generation_continues_as_a_whole_pass_would(vlm, records, family):
    vlm = vlm(family)
    batch = Batcher(vlm, padding_side="left")(records[:1], prompt=True)
    with evaluating(vlm):
        out = vlm.model.generate(**batch.model_inputs(), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0,
                                 return_dict_in_generate=True, output_logits=True)
        new = out.sequences[:, batch.input_ids.shape[1]:-1]
        inputs = batch.model_inputs() | dict(input_ids=out.sequences[:, :-1], attention_mask=torch.ones_like(out.sequences[:, :-1]))
        if "mm_token_type_ids" in inputs: inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(new)], 1).int()
        if (sight := inputs.get("cross_attention_mask")) is not None:
            inputs["cross_attention_mask"] = torch.cat([sight, sight[:, -1:].expand(-1, new.shape[1], -1, -1)], 1)
        whole = vlm.model(**inputs).logits[:, -8:]
    torch.testing.assert_close(torch.stack(out.logits, 1), whole, atol=1e-4, rtol=1e-4)


@each_family
def test_lengths_are_known_without_decoding_a_picture(vlm, records, family):
    batcher = Batcher(vlm(family))
    assert token_counts(records, batcher) == [len(batcher.encode(record).input_ids) for record in records]


@each_family
def test_a_saved_miniature_says_the_same(vlm, records, family, tmp_path):
    ours = vlm(family)
    theirs = load_vlm(save_vlm(ours, tmp_path))
    assert type(theirs.family) is FAMILIES[family] and type(theirs.processor) is type(ours.processor)
    with evaluating(ours), evaluating(theirs):
        assert torch.equal(*(v.model(**Batcher(v)(records).model_inputs()).logits for v in (ours, theirs)))


@each_family
def test_the_gaze_of_a_picture_has_the_rows_and_columns_of_its_tokens(vlm, records, family):
    vlm = vlm(family)
    sizes = [Image.open(ref.path).size for ref in records[0].images]
    for size, (_, seen) in zip(sizes, gaze(vlm, records[0]).items(), strict=True):
        boxes = vlm.family.patches(vlm.processor, [size]).boxes
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        assert seen.shape == tuple(len(np.unique(boxes[:, side])) for side in (1, 0)) and 0 < seen.sum() < 1


# checkpoints as they are published

def published_qwen2_5_vl(folder):
    "One flat configuration with old names, weights without `language_model`, one file of picture settings, the template in JSON."
    config = json.loads((folder / "config.json").read_text())
    text, vision = config.pop("text_config"), config.pop("vision_config")
    rope = text.pop("rope_parameters")
    for name in ("model_type", "layer_types"): del text[name]
    for name in ("model_type", "rope_parameters"): del vision[name]
    config |= text | dict(model_type="qwen2_5_vl", rope_theta=rope["rope_theta"], rope_scaling=dict(type="mrope", mrope_section=rope["mrope_section"]),
                          torch_dtype="bfloat16", vision_config=vision | dict(in_chans=3, spatial_patch_size=14))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps(dict(chat_template=template.read_text())))
    template.unlink()
    return config, dict(min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2, image_processor_type="Qwen2VLImageProcessor")


def published_qwen3_vl(folder):
    "Old names of rotary positions, the tower under the family's own name, a fast image processor."
    config = json.loads((folder / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= dict(rope_theta=rope.pop("rope_theta"), rope_scaling=rope)
    config["vision_config"] = {k: v for k, v in config["vision_config"].items() if k != "rope_parameters"} | dict(model_type="qwen3_vl")
    return config, dict(size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2,
                        image_mean=[.5] * 3, image_std=[.5] * 3, image_processor_type="Qwen2VLImageProcessorFast")


def published_internvl(folder):
    "Old names of rotary positions, a fast image processor that is told not to cut pictures."
    config = json.loads((folder / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= dict(rope_theta=rope["rope_theta"], rope_scaling=None, torch_dtype="bfloat16")
    return config, dict(crop_to_patches=False, max_patches=12, min_patches=1, size=dict(height=448, width=448), image_processor_type="GotOcr2ImageProcessorFast")


def published_mllama(folder):
    "Old names of rotary positions, a tokenizer that does not say which token is a picture, the template in JSON."
    config = json.loads((folder / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= dict(rope_theta=rope.pop("rope_theta"), rope_scaling=rope, torch_dtype="bfloat16")
    names = json.loads((folder / "tokenizer_config.json").read_text())
    assert names.pop("image_token") == "<|image|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps(dict(chat_template=template.read_text())))
    template.unlink()
    return config, dict(do_pad=True, max_image_tiles=4, resample=2, size=dict(height=560, width=560), image_mean=CLIP_MEAN, image_std=CLIP_STD,
                        image_processor_type="MllamaImageProcessor")


PUBLISHED = {"internvl": published_internvl, "qwen2_5_vl": published_qwen2_5_vl, "qwen3_vl": published_qwen3_vl, "mllama": published_mllama}


@pytest.mark.parametrize("family, publish", PUBLISHED.items())
def test_a_checkpoint_laid_out_like_the_published_ones_is_read(vlm, records, family, publish, tmp_path):
    ours = vlm(family)
    config, pictures = publish(save_vlm(ours, tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    (tmp_path / "processor_config.json").unlink()
    theirs = load_vlm(tmp_path)
    assert theirs.processor.image_processor.to_dict() == ROWS[family].images().to_dict() and theirs.processor.chat_template == ours.processor.chat_template
    with evaluating(ours), evaluating(theirs):
        assert torch.equal(*(v.model(**Batcher(ours)(records).model_inputs()).logits for v in (ours, theirs)))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_pictures_are_scaled_down_on_request_and_stay_so_when_saved(vlm, records, family, tmp_path):
    whole = Batcher(vlm(family))(records)
    small = load_vlm(save_vlm(vlm(family), tmp_path / "whole"), max_pixels=4 * 32 ** 2)
    for again in (small, load_vlm(save_vlm(small, tmp_path / "small"))):
        batch = Batcher(again)(records)
        assert 0 < max(len(e.patches) for e in batch.encoded) <= 8 and batch.vision_mask.sum() < whole.vision_mask.sum()
        with evaluating(again): assert again.model(**batch.model_inputs()).logits.isfinite().all()


def test_a_family_without_such_pictures_refuses_max_pixels(vlm, tmp_path):
    with pytest.raises(ValueError, match="max_pixels is for families that keep a picture's shape; 'internvl'"):
        load_vlm(save_vlm(vlm("internvl"), tmp_path), max_pixels=10 ** 6)
    with pytest.raises(ValueError, match="784 pixels of one vision token at least; found max_pixels=500; raise max_pixels to at least 784"):
        load_vlm(save_vlm(vlm("qwen2_5_vl"), tmp_path / "qwen"), max_pixels=500)
