"Llama-3.2-Vision: a signal counts the layers that look where it asks, text sees the pictures before it, and nobody depends on company."
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.records import VQARecord
from drivekd.distill.cache import CachedTeachers, StoredTeachers
from drivekd.distill.capabilities import Signal, layer_plan, make_recipe, with_options
from drivekd.distill.hooks import capture_attention, decoder_layers
from drivekd.distill.machine import memory_estimate
from drivekd.distill.objective import listen, region_pairs, sample_losses, signal_region, student_needs
from drivekd.distill.teachers import Teachers
from drivekd.models.batching import Batcher
from drivekd.models.family_miniatures import miniature_vlm
from drivekd.models.loading import evaluating, freeze

TEXTS = ["What is the moving status of <c1,CAM_FRONT,0.4678,0.6772>? Which object is near? It is moving ahead. Final: B. Turn left."] * 9
RECIPE = make_recipe("agp")


@pytest.fixture(scope="module")
def student(): return miniature_vlm("mllama", TEXTS, vocab_size=400)


@pytest.fixture(scope="module")
def teachers(student):
    vlm = miniature_vlm("mllama", TEXTS, "teacher", 1, vocab_size=400)
    return lambda recipe=RECIPE: Teachers({c.name: vlm for c in recipe.capabilities}, recipe, decoder_layers(student))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about two, no, and one picture, of two, four and one tiles."
    folder, random, refs = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i, (width, height) in enumerate([(160, 90), (320, 180), (100, 112)]):
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
        refs.append(ImageRef(None, folder / f"{i}.png"))
    def record(id, images, question, answer, capability):
        turns = (Turn("user", "<image>" * len(images) + question), Turn("assistant", answer))
        return VQARecord(id, tuple(images), turns, capability, (), "drivekd", 0)
    return [record("two", refs[:2], "Which is near?", "Final: B.", "perception"), record("none", (), "What is it?", "It is moving ahead.", "reasoning"),
            record("one", refs[2:], "Turn left? <c1,CAM_FRONT,0.4678,0.6772>", "No.", "planning")]


def test_signals_count_the_layers_that_look_where_they_ask(student, teachers):
    assert decoder_layers(student) == ["self", "cross"] * 3
    assert teachers().teachers[0].plans == {"perception": ((1, (1,)),), "reasoning": ((0, (0, 2, 4)), (2, (2, 4, 6))), "planning": ((3, (7,)),)}
    assert student_needs(RECIPE, decoder_layers(student)).attention == (0, 1, 2, 3)


def test_hidden_states_count_every_layer():
    hidden = Signal("hidden", "penultimate", "full")
    assert layer_plan(hidden, ["self", "cross"] * 3, ["self", "cross"] * 5) == ((4, (8,)),)


def test_a_custom_match_names_counted_layers():
    signal = Signal(layers=(0, 2), match=((0, 1), (4,)))
    assert layer_plan(signal, ["self", "cross"] * 3, ["self", "cross"] * 5) == ((1, (1, 3)), (5, (9,)))
    with pytest.raises(ValueError, match="0 … 3"): layer_plan(signal, ["self", "cross"] * 3, ["self", "cross"] * 4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_sees_the_pictures_before_it_and_nobody_sees_padding(student, records, side):
    batch = Batcher(student, padding_side=side)(records)
    with evaluating(student), capture_attention(student, [1, 5]) as maps: student.model(**batch.model_inputs())
    image = batch.input_ids == student.model.config.image_token_id
    assert [len(batch.columns(i)) for i in range(3)] == [len(e.patches) for e in batch.encoded] == [6 * 65, 0, 65]
    for i, record in enumerate(records):
        looking, places = batch.sight[i].any(1), torch.arange(image.shape[1])
        assert torch.equal(looking, batch.attention_mask[i].bool() & (places > image[i].float().argmax()) & ~image[i] & bool(record.images))
        for m in maps.values():
            torch.testing.assert_close(m[i][looking][:, batch.columns(i)].sum(1), torch.ones(int(looking.sum())))  # all that a row has is on its own pictures
            assert not m[i][looking][~batch.sight[i][looking]].any()


def test_text_between_pictures_sees_the_pictures_before_the_next_one(student, records):
    between = replace(records[0], turns=(Turn("user", "<image>front<image>back"), *records[0].turns[1:]))
    batch = Batcher(student)([between])
    first, second = (batch.input_ids[0] == student.model.config.image_token_id).nonzero()[:, 0]
    seen = batch.tile_sight[0].unflatten(1, (2, 4)).any(2)
    assert seen[first + 1:second].tolist() == [[True, False]] * (second - first - 1) and seen[second + 1:].tolist() == [[False, True]] * (len(seen) - second - 1)
    region, pairs = signal_region(Signal(), batch), region_pairs(Signal(), batch)
    assert region.pairs.item() == pairs.sum() and region.columns.sum() == len(batch.columns(0)) == len(batch.encoded[0].patches)


@pytest.mark.parametrize("distance, side", [("mse", "left"), ("mse", "right"), ("cosine", "left")])
def test_the_fused_loss_is_that_of_whole_maps(student, teachers, records, side, distance):
    recipe, batch, found = with_options("agp", distance=distance), Batcher(student, padding_side=side)(records), []
    targets = teachers(recipe).targets(batch)
    for maps in (True, False):
        with listen(student, student_needs(recipe, decoder_layers(student)), maps=maps) as shown:
            shown.logits = student.model(**batch.model_inputs(), use_cache=False).logits
        losses = sample_losses(recipe, batch, shown, targets)
        weights = [p for n, p in student.model.named_parameters() if "q_proj" in n and "language_model.layers" in n][:4]
        found.append([*losses.values(), *torch.autograd.grad(sum(loss.sum() for loss in losses.values()), weights)])
    assert losses["perception"][1] == losses["planning"][1] == 0 and losses["perception"][0] > 0  # the second has no picture
    for plain, fused in zip(*found, strict=True): torch.testing.assert_close(plain, fused, atol=1e-6, rtol=1e-4)


def test_targets_come_back_from_disk_in_other_company(student, teachers, records, tmp_path):
    CachedTeachers(teachers(), tmp_path, student.processor).fill([Batcher(student)(records)])
    stored, alone = StoredTeachers(RECIPE, decoder_layers(student), tmp_path, student.processor), Batcher(student, padding_side="left")(records[2:])
    ours, theirs = stored.targets(alone), teachers().targets(alone)
    for c in RECIPE.capabilities:
        pairs = region_pairs(c.signal, alone)
        for layer, m in ours[c.name].attention.items(): torch.testing.assert_close(m * pairs, theirs[c.name].attention[layer] * pairs, atol=1e-6, rtol=0)


def test_a_sample_without_pictures_is_the_language_model_alone(student, records):
    batch = Batcher(student)([records[1]])
    with evaluating(student):
        blank, none = student.model(**batch.model_inputs()).logits, student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(blank, none, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_sample_do_not_depend_on_its_company(student, records, side):
    batch = Batcher(student, padding_side=side)(records)
    with evaluating(student):
        together = student.model(**batch.model_inputs()).logits
        for i, record in enumerate(records):
            alone = student.model(**Batcher(student)([record]).model_inputs()).logits[0]
            torch.testing.assert_close(together[i][batch.attention_mask[i].bool()], alone, atol=1e-5, rtol=0)


def test_a_model_is_prepared_once(student):
    attention = student.attention_modules[1]
    hooks = len(attention._forward_hooks)
    student.family.prepare(student.model)
    assert hooks == len(attention._forward_hooks) == 1 and attention.is_causal is False


def test_a_tower_of_another_patch_is_refused(student):
    config = deepcopy(student.model.config)
    config.vision_config.patch_size = 28
    with pytest.raises(ValueError, match=r"patches of 14 pixels, found \(4, 28\).*; choose a published checkpoint"): student.family.prepare(SimpleNamespace(config=config))


def test_the_memory_of_vision_keys_is_foreseen(teachers, records):
    vlm = deepcopy(teachers().teachers[0].vlm)
    freeze(vlm, "vision")
    weights, found = {p.untyped_storage().data_ptr() for p in vlm.model.parameters()}, []
    for shown in (records[:1], records[2:]):
        batch, kept = Batcher(vlm)(shown), {}
        def note(x):
            if (place := x.untyped_storage().data_ptr()) not in weights: kept[place] = x.untyped_storage().nbytes()  # noqa: B023
            return x
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x): out = vlm.model(**batch.model_inputs(), use_cache=False)
        found.append((sum(kept.values()), memory_estimate(vlm, {}, RECIPE, batch)["activations"]))
        del out
    (large, foreseen), (small, less) = found
    assert abs(foreseen / large - 1) < .1 and abs((foreseen - less) / (large - small) - 1) < .15
