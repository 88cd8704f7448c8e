"Models: a checkpoint is what was saved, only answers are learned, every picture has its tokens, and nothing foreign is run."
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from readme import ROOT
from safetensors.torch import load_file, save_file

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.records import VQARecord
from drivekd.models.batching import Batcher, length_buckets, tag_tokens
from drivekd.models.families import expand_placeholders, family_of, grid_boxes
from drivekd.models.loading import evaluating, freeze, load_vlm, save_vlm
from drivekd.models.miniature import SIZES, build_miniature

TOKENS = 64  # vision tokens of a picture
TAGS = ("<c1,CAM_FRONT,0.4678,0.6772>", "<c2,CAM_BACK_LEFT,0.9999,0.0000>")


@pytest.fixture(scope="session")
def pictures(pool, tmp_path_factory):
    "Six pictures of a scene on disk."
    folder = tmp_path_factory.mktemp("pictures")
    for c in range(6): Image.fromarray(pool.pixels[0, c]).save(folder / f"{c}.png")
    return [ImageRef(None, folder / f"{c}.png") for c in range(6)]


def record(*texts, images=(), id="q"):
    "Questions and answers in turn; the first question shows the pictures."
    roles = ("user", "assistant") * len(texts)
    first = "<image>" * len(images) + texts[0]
    return VQARecord(id, tuple(images), tuple(Turn(*t) for t in zip(roles, (first, *texts[1:]), strict=False)), "planning", (), "drivekd", 0)


@pytest.fixture
def some(pictures):
    "Records of unequal length about none, one and three pictures."
    return [record("What is it?", "A red car.", id="none"), record("Which is far?", "The bus.\nIt is behind.", images=pictures[:1], id="one"),
            record("Left?", "No.", images=pictures[3:], id="three")]


def logits(vlm, batch):
    with torch.no_grad(): return vlm.model(**batch.model_inputs()).logits


def pixels(batch): return batch.picture_inputs["pixel_values"]


def learned(batch, processor):
    "Text of what each sample learns."
    return [processor.tokenizer.decode(row[row >= 0]) for row in batch.labels]


# checkpoints

@pytest.fixture(scope="session")
def checkpoint(student, tmp_path_factory): return save_vlm(student, tmp_path_factory.mktemp("checkpoint") / "student")


@pytest.fixture
def copy(checkpoint, tmp_path): return shutil.copytree(checkpoint, tmp_path / "copy")


def test_a_saved_model_answers_bit_for_bit_as_before(student, checkpoint, some):
    back = load_vlm(checkpoint)
    ours, theirs = Batcher(student)(some), Batcher(back)(some)
    assert torch.equal(ours.input_ids, theirs.input_ids) and torch.equal(pixels(ours), pixels(theirs))
    assert torch.equal(logits(student, ours), logits(back, theirs))
    assert back.name == str(checkpoint) and len(back.llm_layers) == len(back.attention_modules) == SIZES["student"]["text"]["num_hidden_layers"]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=lambda e: type(e).__name__)
def test_too_little_memory_is_not_blamed_on_the_checkpoint(checkpoint, monkeypatch, error):
    def fails(*a, **k): raise error
    monkeypatch.setattr("drivekd.models.loading.AutoModelForImageTextToText.from_pretrained", fails)
    with pytest.raises(type(error)): load_vlm(checkpoint)


def test_a_checkpoint_may_be_stored_in_half_precision_and_leaves_the_model_alone(student, tmp_path):
    back = load_vlm(save_vlm(student, tmp_path, dtype="bfloat16"))
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    for (name, ours), theirs in zip(student.model.named_parameters(), back.model.parameters(), strict=True):
        assert theirs.dtype == torch.float32 and torch.equal(ours.bfloat16().float(), theirs), name


def test_tied_embeddings_are_stored_once_in_every_precision(student, checkpoint, tmp_path):
    save_vlm(student, tmp_path, dtype="bfloat16")
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()


def test_a_seed_decides_the_weights_and_the_global_generator_stays(processor):
    state = torch.get_rng_state()
    one, same, other = (build_miniature(processor, "student", seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(state, torch.get_rng_state())


def refusal(call, *args, kind=Exception, **kwargs):
    "The message of a refusal, which must be one sentence."
    with pytest.raises(kind) as caught: call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text.strip() and len(text) < 350, text
    return text


def test_an_unknown_size_is_refused_with_the_known_ones(processor):
    text = refusal(build_miniature, processor, "giant", kind=ValueError)
    assert "'giant'" in text and "student" in text and "teacher" in text


@pytest.mark.parametrize("place", ["nothing", "deep/er/nothing"])
def test_a_missing_checkpoint_is_named(tmp_path, place):
    assert str(tmp_path / place) in refusal(load_vlm, tmp_path / place, kind=FileNotFoundError)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    assert "config.json" in refusal(load_vlm, tmp_path, kind=FileNotFoundError)


def test_missing_weights_are_refused_and_pickled_ones_do_not_replace_them(copy, student):
    (copy / "model.safetensors").unlink()
    torch.save(student.model.state_dict(), copy / "pytorch_model.bin")
    assert "model.safetensors" in refusal(load_vlm, copy, kind=OSError)


def test_a_broken_configuration_is_named(copy):
    (copy / "config.json").write_text("{")
    assert str(copy / "config.json") in refusal(load_vlm, copy)


def cut_short(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without_a_tensor(copy):
    weights = load_file(copy / "model.safetensors")
    del weights[sorted(weights)[5]]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})


def with_a_foreign_tensor(copy):
    save_file(load_file(copy / "model.safetensors") | {"foreign": torch.zeros(2)}, copy / "model.safetensors", metadata={"format": "pt"})


def with_a_wider_tensor(copy):
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[5]
    save_file(weights | {name: torch.cat([weights[name]] * 2)}, copy / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(copy): (copy / "tokenizer.json").unlink()
def without_processor(copy): (copy / "processor_config.json").unlink()
def without_template(copy): (copy / "chat_template.jinja").unlink()


@pytest.mark.parametrize("damage", [cut_short, without_a_tensor, with_a_foreign_tensor, with_a_wider_tensor,
                                    without_tokenizer, without_processor, without_template])
def test_a_damaged_checkpoint_is_named(copy, damage):
    damage(copy)
    assert str(copy) in refusal(load_vlm, copy, kind=OSError)


def of_type(copy, model_type, **more):
    config = json.loads((copy / "config.json").read_text()) | dict(model_type=model_type, **more)
    (copy / "config.json").write_text(json.dumps(config))


def test_a_model_of_another_family_is_refused_with_the_known_ones(copy):
    of_type(copy, "qwen2")
    text = refusal(load_vlm, copy, kind=ValueError)
    assert "'qwen2'" in text and "internvl" in text and text == refusal(family_of, {"model_type": "qwen2"}, kind=ValueError)


def test_a_model_nobody_knows_is_refused_like_any_other(copy):
    of_type(copy, "unheard_of")
    assert "'unheard_of'" in refusal(load_vlm, copy, kind=ValueError)


def test_foreign_code_is_not_run_even_if_somebody_would_say_yes(copy, monkeypatch):
    (copy / "configuration_foreign.py").write_text(f"open({str(copy / 'ran')!r}, 'w').close()\nfrom transformers import Qwen2Config as Foreign\n")
    of_type(copy, "foreign", auto_map={"AutoConfig": "configuration_foreign.Foreign"})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(copy / "modules"))
    with pytest.raises(Exception): load_vlm(copy)  # noqa: B017 which error is said elsewhere
    assert not (copy / "ran").exists()


def test_a_model_of_the_hub_is_asked_for_there():
    assert "configuration of checkpoint nobody/nothing" in refusal(load_vlm, "nobody/nothing", kind=OSError)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "nn"])
def test_an_unknown_precision_is_refused_before_anything_is_read_or_written(student, tmp_path, dtype):
    for text in (refusal(load_vlm, "nobody/nothing", dtype=dtype, kind=ValueError), refusal(save_vlm, student, tmp_path, dtype, kind=ValueError)):
        assert repr(dtype) in text and "bfloat16" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["none", "vision", "all"])
def test_freezing_stops_the_gradients_it_names(processor, student, part):
    vlm = type(student)(build_miniature(processor, "student"), processor, student.family)
    count = freeze(vlm, part)
    trains = {n for n, p in vlm.model.named_parameters() if p.requires_grad}
    seeing = {n for n, _ in vlm.model.named_parameters() if "vision_tower" in n or "projector" in n}
    assert trains == {"none": {n for n, _ in vlm.model.named_parameters()}, "all": set()}.get(part, {n for n, _ in vlm.model.named_parameters()} - seeing)
    assert count == sum(p.numel() for n, p in vlm.model.named_parameters() if n in trains)


def test_freezing_an_unknown_part_is_refused(student):
    assert "'llm'" in refusal(freeze, student, "llm", kind=ValueError)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluating_gives_the_mode_back_even_after_an_error(student, mode):
    before = student.model.training
    student.model.train(mode)
    with pytest.raises(KeyError), evaluating(student):
        assert not student.model.training and torch.is_inference_mode_enabled()
        raise KeyError
    assert student.model.training == mode
    student.model.train(before)


# text and labels

@pytest.mark.parametrize("text", ["", " ", "Über 0.4678, <c1,CAM_FRONT,1.0,0.05>!\n\n\t车 x1234", TAGS[0] + TAGS[1]])
def test_the_tokenizer_loses_nothing(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_answers_and_nothing_else_are_learned(student, processor, pictures):
    records = [record("How?", "A red car.\nIt stops.", images=pictures[:2]), record("One?", "First.", "Two?", "Second, ü!", "Three?", "Third.", images=pictures[:1])]
    assert learned(Batcher(student)(records), processor) == ["A red car.\nIt stops.<|im_end|>", "First.<|im_end|>Second, ü!<|im_end|>Third.<|im_end|>"]


def test_the_published_labels_hold_the_role_marker_too(student, processor):
    (text,) = learned(Batcher(student, role_marker=True)([record("One?", "First.", "Two?", "Second.")]), processor)
    assert text == "<|im_start|>assistant\nFirst.<|im_end|>\n<|im_start|>assistant\nSecond.<|im_end|>\n"


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_learned_is_what_is_read(student, some, side):
    batch = Batcher(student, padding_side=side)(some)
    at = batch.labels >= 0
    assert torch.equal(batch.labels[at], batch.input_ids[at]) and not (at & batch.vision_mask).any() and not (at & (batch.attention_mask == 0)).any()


def test_a_prompt_ends_where_the_answer_would_begin(student, processor, some):
    batch = Batcher(student, padding_side="left")(some, prompt=True)
    assert (batch.labels == -100).all()
    for text, r in zip(processor.tokenizer.batch_decode(batch.input_ids), some, strict=True):
        assert text.endswith(f"{r.question}<|im_end|>\n<|im_start|>assistant\n")


def test_a_prompt_shows_only_the_pictures_of_its_question(student, pictures):
    turns = (Turn("user", "<image>One?"), Turn("assistant", "First."), Turn("user", "<image>Two?"), Turn("assistant", "Second."))
    batch = Batcher(student)([VQARecord("q", tuple(pictures[:2]), turns, None, (), "drivekd", 0)], prompt=True)
    assert len(pixels(batch)) * TOKENS == batch.vision_mask.sum()


@pytest.mark.parametrize("tags", [TAGS, TAGS[:1] * 3, ()])
def test_the_tokens_of_a_tag_spell_the_tag(student, processor, pictures, tags):
    encoded = Batcher(student).encode(record(f"Is {' or'.join(tags)} near?", f"No: {''.join(tags)}.", images=pictures[:1]))
    assert [processor.tokenizer.decode(encoded.input_ids[at]) for _, at in tag_tokens(encoded)] == [*tags, *tags]


def test_a_record_that_is_too_long_is_refused_by_name(student):
    chat = record("What is it?", "A car.", id="scene 7")
    length = len(Batcher(student).encode(chat).input_ids)
    assert len(Batcher(student, max_length=length).encode(chat).input_ids) == length
    text = refusal(Batcher(student, max_length=length - 1), [chat], kind=ValueError)
    assert "'scene 7'" in text and str(length) in text and str(length - 1) in text


def test_a_sample_may_be_as_long_as_the_model_can_read(student):
    assert Batcher(student).max_length == student.model.config.text_config.max_position_embeddings == 4096


# pictures

def test_every_picture_has_its_vision_tokens_between_its_markers(student, processor, some):
    batch, tokenizer = Batcher(student)(some), processor.tokenizer
    assert batch.vision_mask.sum(1).tolist() == [0, TOKENS, 3 * TOKENS] and len(pixels(batch)) == 4 and batch.ids == ["none", "one", "three"]
    assert torch.equal(batch.vision_mask, batch.input_ids == tokenizer.context_image_token_id)
    block = "<img>" + "<IMG_CONTEXT>" * TOKENS + "</img>"
    assert [tokenizer.decode(row).count(block) for row in batch.input_ids] == [0, 1, 3]


def test_a_batch_without_pictures_has_no_pixels(student, some):
    batch = Batcher(student)(some[:1])
    assert batch.picture_inputs == {} and batch.model_inputs().keys() == {"input_ids", "attention_mask"} and logits(student, batch).isfinite().all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logit_and_no_sample_sees_another_ones_pictures(student, some, side):
    together = Batcher(student, padding_side=side)(some)
    found = logits(student, together)
    for i, one in enumerate(some):
        real = together.attention_mask[i].bool()
        torch.testing.assert_close(found[i][real], logits(student, Batcher(student)([one]))[0], atol=1e-5, rtol=0)


def test_the_order_of_pictures_is_the_order_of_the_record(student, pictures):
    there, back = (Batcher(student)([record("Left?", "No.", images=order)]) for order in (pictures[:2], pictures[1::-1]))
    alone = pixels(Batcher(student)([record("Left?", "No.", images=pictures[:1])]))[0]
    assert torch.equal(pixels(there)[0], alone) and torch.equal(pixels(back)[1], alone) and not torch.equal(pixels(there)[1], alone)
    assert (logits(student, there) - logits(student, back))[:, -1].abs().max() > 1e-5


def test_blocks_replace_placeholders_in_order_and_must_be_as_many():
    assert expand_placeholders("a#b#c", "#", ["1", "22"]) == "a1b22c"
    for blocks in (["1"], ["1"] * 3): assert f"{len(blocks)} images" in refusal(expand_placeholders, "a#b#c", "#", blocks, kind=ValueError)


def test_the_tokens_of_each_picture_tile_it_row_by_row(student, processor):
    patches = student.family.patches(processor, [(160, 90), (90, 160)])
    assert patches.picture.tolist() == [0] * TOKENS + [1] * TOKENS and not patches.overview.any()
    assert np.isclose(np.prod(patches.boxes[:, 2:] - patches.boxes[:, :2], 1).sum(), 2) and len(student.family.patches(processor, [])) == 0
    assert grid_boxes(2, 2).tolist() == [[0, 0, .5, .5], [.5, 0, 1, .5], [0, .5, .5, 1], [.5, .5, 1, 1]]


# buckets

@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 9), st.integers(0, 99), st.integers(1, 5))
def test_buckets_lose_and_repeat_no_sample(lengths, size, seed, stretch):
    buckets = length_buckets(lengths, size, seed, stretch)
    assert Counter(i for b in buckets for i in b) == Counter(range(len(lengths))) and all(0 < len(b) <= size for b in buckets)
    assert buckets == length_buckets(lengths, size, seed, stretch)


def test_buckets_pad_less_than_chance_and_come_in_random_order():
    lengths = torch.randint(50, 800, (640,)).tolist()
    spread = np.mean([np.ptp([lengths[i] for i in b]) for b in length_buckets(lengths, 8)])
    assert spread < 100 < np.mean([np.ptp(lengths[i:i + 8]) for i in range(0, 640, 8)])
    firsts = [lengths[b[0]] for b in length_buckets(lengths, 8, stretch=100)]
    assert firsts != sorted(firsts) and length_buckets(lengths, 8, 0) != length_buckets(lengths, 8, 1)


@pytest.mark.parametrize("name", ["student_ce", "student_agp"])
def test_a_shipped_student_is_its_base_with_a_trained_language_model(name):
    shipped, base = ROOT / "data/miniature" / name, load_file(ROOT / "data/miniature/student/model.safetensors")
    assert sum(f.stat().st_size for f in shipped.iterdir()) <= 800_000 and {f.name for f in shipped.iterdir()} == {f.name for f in (ROOT / "data/miniature/student").iterdir()}
    moved = [k for k, v in load_file(shipped / "model.safetensors").items() if not torch.equal(v, base[k])]
    assert moved and not [k for k in moved if "vision_tower" in k or "projector" in k]
    assert load_vlm(shipped).model.num_parameters() == load_vlm(ROOT / "data/miniature/student").model.num_parameters()
