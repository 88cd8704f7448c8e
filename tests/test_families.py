"Every family: its tokens look where we say, its maps are the model's own, its tower freezes, and its students learn."
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import InternVLConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.jsonfiles import read_log
from drivekd.data.records import VQARecord
from drivekd.distill.cache import CachedTeachers, StoredTeachers
from drivekd.distill.capabilities import Signal, layer_plan, make_recipe, with_options
from drivekd.distill.hooks import capture_attention, decoder_layers
from drivekd.distill.lengths import token_counts
from drivekd.distill.objective import listen, region_pairs, sample_losses, signal_region, student_needs
from drivekd.distill.teachers import Teachers
from drivekd.distill.trainer import DistillationConfig, distill
from drivekd.models.batching import Batcher
from drivekd.models.families import FAMILIES
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import VLM, evaluating, freeze, load_vlm, save_vlm
from drivekd.models.miniature import random_model
from drivekd.models.vision import VisionCache

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
    "Each tile has a class token, then 40 × 40 patches; only tiles that the picture fills."
    tiles = inputs["pixel_values"][0].mean(1)[inputs["aspect_ratio_mask"][0].bool()]
    patches = tiles.unflatten(2, (40, -1)).unflatten(1, (40, -1)).mean((2, 4)).flatten(1)
    return torch.cat([patches.mean(1, keepdim=True), patches], 1).flatten()


# sizes and means as in preprocessor_config.json of OpenGVLab/InternVL3-1B-hf, Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen3-VL-2B-Instruct
# and meta-llama/Llama-3.2-11B-Vision-Instruct
ROWS = {
    "internvl": Row(lambda: GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=False), light_of_tiles,
                    dict(crop_to_patches=False), tiles=(None, 12)),
    "qwen2_5_vl": Row(lambda: Qwen2VLImageProcessorPil(patch_size=14, min_pixels=3136, max_pixels=12845056), light_of_patches),
    "qwen3_vl": Row(lambda: Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216},
                                                     image_mean=[.5] * 3, image_std=[.5] * 3), light_of_patches),
    "mllama": Row(lambda: MllamaImageProcessorPil(size={"height": 560, "width": 560}, max_image_tiles=4), light_of_tiles_and_classes, places=4 * 65, tiles=(None, 1)),
}
each_family = pytest.mark.parametrize("family", ROWS)


def test_every_family_has_a_miniature_and_a_row(): assert set(FAMILIES) == set(MINIATURES) == set(ROWS)


# where tokens look

SIZES = [(1600, 900), (900, 1600), (641, 479), (100, 333), (40, 30)]  # cameras, upright, odd, narrow, smaller than the processors' minimum


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
    black, white = (light(Image.new("RGB", picture.size, color)) for color in ("black", "white"))
    return np.divide(light(picture) - black, white - black, where=white > black, out=np.zeros_like(white))


SPOTS = [(.1, .2, .35, .5), (.7, .15, .95, .4), (.5, .6, .75, .9)]


@each_view
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_bright_spot_is_bright_in_the_tokens_whose_boxes_it_covers(real, family, tiles, size):
    family, processor = real(family, tiles)
    picture, boxes = lit(size, *SPOTS)
    patches = family.patches(processor, [size])
    seen, expected = brightness(family, processor, picture), sum(covered(patches.boxes, box) for box in boxes)
    assert seen.shape == expected.shape and not patches.picture.any()
    assert np.abs(seen - expected).max() < .25 and np.abs(seen - expected).mean() < .02  # resizing blurs the edges
    assert expected[seen.argmax()] == pytest.approx(min(1, expected.max()))


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
        assert np.abs(seen[of] - covered(patches.boxes[of], box)).mean() < .02


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
def test_checkpointed_maps_teach_the_same(family, records):
    gradients = []
    for checkpointing in (False, True):
        own = miniature_vlm(family, TEXTS, vocab_size=400)
        batch = Batcher(own)(records)
        own.model.train()
        if checkpointing: own.model.activation_checkpointing_enable({"use_reentrant": False})
        with capture_attention(own, [0, 1, 2]) as maps:
            own.model(**batch.model_inputs(), use_cache=False)
            sum((m ** 2).sum() for m in maps.values()).backward()
        gradients.append({n: p.grad for n, p in own.model.named_parameters() if p.grad is not None})
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
def test_a_frozen_tower_leaves_the_language_model_to_learn(family):
    vlm = miniature_vlm(family, TEXTS, vocab_size=300)
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
def test_kept_features_are_as_good_as_pixels(records, family):
    vlm = miniature_vlm(family, TEXTS, vocab_size=400)
    freeze(vlm, "vision")
    batch, cache = Batcher(vlm)(records), VisionCache(vlm, gigabytes=1)
    with torch.no_grad():
        plain, kept = vlm.model(**batch.model_inputs()).logits, [vlm.model(**cache.inputs(batch)).logits for _ in range(2)]
    assert cache.misses == cache.hits == 3 and torch.equal(*kept)
    torch.testing.assert_close(plain, kept[0], atol=1e-4, rtol=1e-4)


@each_family
def test_a_student_learns_from_a_teacher_of_its_family(vlm, records, family, tmp_path):
    student, teachers = miniature_vlm(family, TEXTS, vocab_size=400), dict.fromkeys(CAPABILITIES, vlm(family, "teacher", 1))
    before = {n: p.clone() for n, p in student.model.named_parameters()}
    distill(student, teachers, records, DistillationConfig(str(tmp_path), max_steps=4, per_device_train_batch_size=3, use_cpu=True, save_strategy="no",
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


# InternVL's tiles

@pytest.mark.parametrize("size, grid", [((1600, 900), (2, 4)), ((900, 1600), (4, 2)), ((640, 480), (3, 4)), ((448, 448), (1, 1)), ((100, 1000), (10, 1))], ids=str)
def test_a_picture_is_cut_into_the_tiles_that_its_boxes_say(real, size, grid):
    family, processor = real("internvl", 12)
    tiles = len(family.picture_inputs(processor, Image.new("RGB", size))["pixel_values"])
    patches = family.patches(processor, [size])
    assert family.grid(processor, size) == grid and tiles == grid[0] * grid[1] + (grid != (1, 1))
    assert len(patches) == 256 * tiles and patches.overview.sum() == 256 * (grid != (1, 1)) and patches.overview[-1] == (grid != (1, 1))


def test_pictures_of_different_tiles_share_a_batch(vlm, records):
    own = miniature_vlm("internvl", TEXTS, vocab_size=400)
    own.family.cut(own.processor, 4)
    batch = Batcher(own)(records)
    assert batch.vision_mask.sum(1).tolist() == [len(e.patches) for e in batch.encoded] == [64 * (3 + 3), 0, 64] and len(batch.picture_inputs["pixel_values"]) == 7
    with evaluating(own):
        together = own.model(**batch.model_inputs()).logits
        for i, record in enumerate(records):
            alone = Batcher(own)([record])
            n = alone.input_ids.shape[1]
            torch.testing.assert_close(together[i, :n], own.model(**alone.model_inputs()).logits[0], atol=1e-4, rtol=1e-4)


def test_tiles_are_chosen_when_a_checkpoint_is_loaded_and_kept_with_it(vlm, records, tmp_path):
    save_vlm(vlm("internvl"), tmp_path / "one")
    tokens = {tiles: len(Batcher(load_vlm(tmp_path / "one", max_tiles=tiles)).encode(records[0]).patches) for tiles in (None, 1, 4)}
    assert tokens == {None: 128, 1: 128, 4: 384}
    save_vlm(load_vlm(tmp_path / "one", max_tiles=4), tmp_path / "four")
    assert len(Batcher(load_vlm(tmp_path / "four")).encode(records[0]).patches) == 384


@pytest.mark.parametrize("family, tiles, reason", [("qwen3_vl", 4, "has none"), ("mllama", 5, "1 to 4"), ("mllama", 0, "1 to 4"), ("internvl", 0, "at least 1")])
def test_tiles_that_cannot_be_are_refused(real, family, tiles, reason):
    family, processor = real(family)
    with pytest.raises(ValueError, match=reason): family.cut(processor, tiles)


def test_internvl_3_5_is_internvl_with_another_decoder(records, tmp_path):
    processor = MINIATURES["internvl"].processor(TEXTS, 400)
    config = MINIATURES["internvl"].config("student", processor).to_dict()
    config["text_config"] |= dict(model_type="qwen3", head_dim=16)
    model = random_model(InternVLConfig.from_dict(config), processor.tokenizer)
    save_vlm(VLM(model, processor, FAMILIES["internvl"]()), tmp_path)
    own = load_vlm(tmp_path)
    assert own.model.config.text_config.model_type == "qwen3" and hasattr(own.attention_modules[0], "q_norm")
    batch = Batcher(own, padding_side="left")(records)
    with evaluating(own):
        with capture_attention(own, [0, 2]) as maps: own.model(**batch.model_inputs())
        own.model.set_attn_implementation("eager")
        wanted = own.model(**batch.model_inputs(), output_attentions=True).attentions
    real = batch.attention_mask.bool()
    for layer in maps: torch.testing.assert_close(maps[layer][real], wanted[layer].mean(1)[real], atol=1e-6, rtol=0)


# Llama-3.2-Vision's cross-attention

def test_signals_count_the_layers_that_look_where_they_ask(vlm):
    student, teacher = (decoder_layers(vlm("mllama", size)) for size in ("student", "teacher"))
    assert student == ["self", "cross"] * 3 and teacher == ["self", "cross"] * 5 and decoder_layers(vlm("qwen3_vl")) == 4
    plans = {c.name: layer_plan(c.signal, student, teacher) for c in make_recipe("agp").capabilities}
    assert plans == {"perception": ((1, (1,)),), "reasoning": ((0, (0, 2, 4)), (2, (2, 4, 6))), "planning": ((3, (7,)),)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_sees_the_pictures_before_it_and_nobody_sees_padding(vlm, records, side):
    vlm = vlm("mllama")
    batch = Batcher(vlm, padding_side=side)(records)
    with evaluating(vlm), capture_attention(vlm, [1, 5]) as maps: vlm.model(**batch.model_inputs())
    image = batch.input_ids == vlm.model.config.image_token_id
    first = image.float().argmax(1)
    for i, record in enumerate(records):
        looking = batch.sight[i].any(1)
        places = torch.arange(len(looking))
        assert torch.equal(looking, batch.attention_mask[i].bool() & (places > first[i]) & ~image[i] & bool(record.images))
        assert len(batch.columns(i)) == len(batch.encoded[i].patches)
        for m in maps.values():
            torch.testing.assert_close(m[i][looking][:, batch.columns(i)].sum(1), torch.ones(int(looking.sum())))  # all that a row has is on its own pictures
            assert not m[i][looking][~batch.sight[i][looking]].any()


def test_text_between_pictures_sees_the_pictures_before_the_next_one(records):
    between = replace(records[0], turns=(Turn("user", "<image>front<image>back"), *records[0].turns[1:]))
    own = miniature_vlm("mllama", TEXTS, vocab_size=400)
    batch = Batcher(own)([between])
    first, second = (batch.input_ids[0] == own.model.config.image_token_id).nonzero()[:, 0]
    seen = batch.tile_sight[0].unflatten(1, (2, 4)).any(2)
    assert seen[first + 1:second].tolist() == [[True, False]] * (second - first - 1) and seen[second + 1:].tolist() == [[False, True]] * (len(seen) - second - 1)
    region, pairs = signal_region(Signal(), batch), region_pairs(Signal(), batch)
    assert region.pairs.item() == pairs.sum() and region.columns.sum() == len(batch.columns(0)) == len(batch.encoded[0].patches)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_fused_loss_of_cross_attention_is_that_of_whole_maps(vlm, records, side, distance):
    student, teacher = (vlm("mllama", size, seed) for size, seed in (("student", 0), ("teacher", 1)))
    recipe, batch, found = with_options("agp", distance=distance), Batcher(vlm("mllama"), padding_side=side)(records), []
    targets = Teachers(dict.fromkeys(CAPABILITIES, teacher), recipe, decoder_layers(student)).targets(batch)
    for maps in (True, False):
        with listen(student, student_needs(recipe, decoder_layers(student)), maps=maps) as shown:
            shown.logits = student.model(**batch.model_inputs(), use_cache=False).logits
        losses = sample_losses(recipe, batch, shown, targets)
        weights = [p for n, p in student.model.named_parameters() if "q_proj" in n and "language_model.layers" in n][:4]
        found.append([*losses.values(), *torch.autograd.grad(sum(loss.sum() for loss in losses.values()), weights)])
    assert losses["perception"][1] == losses["planning"][1] == 0 and losses["perception"][0] > 0  # the second has no picture
    for plain, fused in zip(*found, strict=True): torch.testing.assert_close(plain, fused, atol=1e-6, rtol=1e-4)


def test_targets_of_cross_attention_come_back_from_disk_in_other_company(vlm, records, tmp_path):
    student, teacher, recipe = vlm("mllama"), vlm("mllama", "teacher", 1), make_recipe("agp")
    teachers = Teachers(dict.fromkeys(CAPABILITIES, teacher), recipe, decoder_layers(student))
    CachedTeachers(teachers, tmp_path, student.processor).fill([Batcher(student)(records)])
    stored, alone = StoredTeachers(recipe, decoder_layers(student), tmp_path, student.processor), Batcher(student, padding_side="left")(records[2:])
    ours, theirs = stored.targets(alone), teachers.targets(alone)
    for c in recipe.capabilities:
        pairs = region_pairs(c.signal, alone)
        for layer, m in ours[c.name].attention.items(): torch.testing.assert_close(m * pairs, theirs[c.name].attention[layer] * pairs, atol=1e-6, rtol=0)


def test_a_sample_without_pictures_is_the_language_model_alone(vlm, records):
    vlm = vlm("mllama")
    batch = Batcher(vlm)([records[1]])
    with evaluating(vlm):
        blank, none = vlm.model(**batch.model_inputs()).logits, vlm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(blank, none, atol=1e-6, rtol=0)


def test_a_tower_of_another_patch_is_refused(vlm):
    own = vlm("mllama")
    config = deepcopy(own.model.config)
    config.vision_config.patch_size = 28
    with pytest.raises(ValueError, match=r"patches of 14 pixels, found \(4, 28\)"): own.family.prepare(SimpleNamespace(config=config))
