"Alignment: attention is neither invented nor lost on the way to another model's tokens, and what has no partner is not compared."
import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import CAPABILITIES
from transformers import InternVLForConditionalGeneration

from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.records import VQARecord
from drivekd.distill.alignment import Tokens, align, area_weights, carry, overlaps, span_weights
from drivekd.distill.cache import CARD, CachedTeachers, StoredTeachers, sample_key, target_bytes
from drivekd.distill.capabilities import PRESETS, Signal, layer_plan, with_options
from drivekd.distill.hooks import decoder_layers
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import Needs, Signals, listen, signal_loss, static_weights, student_needs
from drivekd.distill.readers import Aligner, align_samples, chat_in_parts, common_spans, common_text, reads_alike
from drivekd.distill.step import Window
from drivekd.distill.teachers import Teachers, check_teacher, check_teachers
from drivekd.models.batching import Batcher
from drivekd.models.families import InternVL, Patches, grid_boxes
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import VLM
from drivekd.models.miniature import DOWNSAMPLE, TILE, build_processor, miniature_config, train_tokenizer

RECIPE = PRESETS["agp"]
some = settings(max_examples=25, deadline=None)
GREETING = "<|im_start|>system\nDrive carefully.<|im_end|>\n"


# pictures

def grid(rows, columns=None, picture=0, overview=False):
    boxes = grid_boxes(rows, columns or rows)
    return Patches(np.full(len(boxes), picture), boxes, np.full(len(boxes), overview))


def together(*parts): return Patches(*(np.concatenate([getattr(p, of) for p in parts]) for of in ("picture", "boxes", "overview")))


def area(patches): return torch.as_tensor((patches.boxes[:, 2:] - patches.boxes[:, :2]).prod(1))


sides = st.integers(1, 7)


@some
@given(st.tuples(sides, sides), st.tuples(sides, sides))
def test_a_map_that_is_uniform_by_area_stays_so_and_no_attention_is_lost(ours, theirs):
    first, second = grid(*theirs), grid(*ours)
    across = area(first).float() @ area_weights(first, second)
    torch.testing.assert_close(across, area(second).float())
    torch.testing.assert_close(area_weights(first, second).sum(1), torch.ones(len(first)))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_finer_grid_takes_equal_parts_and_gives_all_of_it_back(factor):
    coarse, fine = grid(3), grid(3 * factor)
    finer = area_weights(coarse, fine)
    torch.testing.assert_close(finer[finer > 0], torch.full((9 * factor ** 2,), 1 / factor ** 2))
    torch.testing.assert_close(finer @ area_weights(fine, coarse), torch.eye(9))


def test_a_two_by_two_refinement_is_exact():
    assert torch.equal(area_weights(grid(2), grid(4)) @ area_weights(grid(4), grid(2)), torch.eye(4))
    assert set(area_weights(grid(2), grid(4)).flatten().tolist()) == {0, .25}
    for patches in (grid(3), grid(7, 5), together(grid(2), grid(2, picture=1), grid(1, overview=True))):
        assert torch.equal(area_weights(patches, patches), torch.eye(len(patches)))


@some
@given(sides, sides, st.data())
def test_attention_inside_a_box_stays_on_tokens_that_see_the_box(n, m, data):
    left, top = (data.draw(st.integers(0, n - 1)) / n for _ in range(2))
    box = torch.tensor([[left, top, left + 1 / n, top + 1 / n]], dtype=torch.float64)  # the place of one of the teacher's tokens
    bright = (torch.as_tensor(grid(n).boxes) - box).abs().sum(1) < 1e-9
    across = bright.float() @ area_weights(grid(n), grid(m))
    boxes = torch.as_tensor(grid(m).boxes)
    touches = (overlaps(boxes[:, 0::2], box[:, 0::2]) * overlaps(boxes[:, 1::2], box[:, 1::2]))[:, 0] > 1e-9
    assert across[~touches].sum() < 1e-6 and abs(across.sum() - 1) < 1e-5
    if m % n == 0: assert torch.equal(touches, across > 0)


def test_pictures_do_not_mix_and_scales_meet_their_like():
    both, tiles = together(grid(2), grid(1, overview=True)), grid(2)
    two = together(grid(2), grid(3, picture=1))
    assert not area_weights(two, two)[:4, 4:].any() and not area_weights(two, two)[4:, :4].any()
    assert torch.equal(area_weights(both, tiles).sum(0), torch.full((4,), 1.25))        # tiles and their quarter of the overview
    assert torch.equal(area_weights(tiles, both), torch.cat([torch.eye(4), torch.ones(4, 1)], 1) / 2)
    assert torch.equal(area_weights(both, both), torch.eye(5))
    mixed = together(both, grid(2, picture=1))                                            # only the first picture has an overview
    assert torch.equal(area_weights(mixed, mixed), torch.eye(9))


def test_attention_outside_every_token_is_lost_and_rounded_edges_are_nothing():
    half = Patches(np.zeros(1, int), np.array([[0, 0, .5, 1]]), np.zeros(1, bool))
    assert area_weights(grid(1), half).tolist() == [[.5]] and area_weights(half, grid(1)).tolist() == [[1]]
    beside = Patches(np.zeros(1, int), np.array([[.5 - 1e-9, 0, 1, 1]]), np.zeros(1, bool))
    assert not area_weights(half, beside).any() and area_weights(half, grid(0)).shape == (1, 0)


# text

def spans(cuts, end):
    edges = torch.tensor([0, *sorted(cuts), end])
    return torch.stack([edges[:-1], edges[1:]], 1)


cuts = st.sets(st.integers(1, 29), max_size=12).map(lambda found: spans(found, 30))


@some
@given(cuts, cuts)
def test_characters_carry_attention_and_none_is_lost(first, second):
    weights = span_weights(first, second)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(first)))
    lengths = (first[:, 1] - first[:, 0]).float()
    torch.testing.assert_close(lengths @ weights, (second[:, 1] - second[:, 0]).float())
    assert torch.equal(span_weights(first, first), torch.eye(len(first)))


def test_bytes_of_one_letter_share_it():
    letter, bytes_ = torch.tensor([[0, 1], [1, 3]]), torch.tensor([[0, 1], [0, 1], [0, 1], [1, 3]])
    assert torch.allclose(span_weights(letter, bytes_), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1]]))
    assert torch.equal(span_weights(bytes_, letter), torch.tensor([[1., 0], [1, 0], [1, 0], [0, 1]]))


def text(offsets): return Tokens(offsets, torch.arange(0), grid(0))


def causal_map(n): return torch.randn(n, n).masked_fill(~torch.ones(n, n).bool().tril(), -torch.inf).softmax(-1)


@some
@given(cuts, cuts)
def test_rows_of_a_text_keep_all_their_attention_and_never_look_ahead(theirs, ours):
    across = carry(causal_map(len(theirs)), align(text(theirs), text(ours)))
    torch.testing.assert_close(across.sum(1), torch.ones(len(ours)), rtol=1e-5, atol=1e-5)
    assert (across >= 0).all() and not across.triu(1).any()


def test_the_same_tokens_give_the_same_map_bit_for_bit():
    tokens = Tokens(torch.cat([torch.zeros(4, 2).long(), spans([3, 5, 9], 12)]), torch.arange(4), grid(2))
    maps = causal_map(8)
    assert torch.equal(carry(maps, align(tokens, tokens)), maps)


def test_what_a_row_sees_none_of_is_lost_and_what_it_sees_a_part_of_is_not():
    teacher, student = Tokens(torch.zeros(4, 2).long(), torch.arange(4), grid(2)), Tokens(torch.zeros(2, 2).long(), torch.arange(2), grid(1, 2))
    maps = torch.zeros(4, 4)
    maps[2] = torch.tensor([.2, .5, .3, 0])                     # bottom left looks at top right, which is the student's second token
    across = carry(maps, align(teacher, student))
    torch.testing.assert_close(across[0], torch.tensor([.25, 0]))  # mean of top left (nothing) and bottom left without top right
    how = align(text(torch.tensor([[0, 4]])), text(torch.tensor([[0, 1], [1, 4]])))
    assert torch.equal(carry(torch.ones(1, 1), how), torch.tensor([[1., 0], [.25, .75]]))
    assert torch.equal(carry(torch.ones(1, 1), replace(how, causal=False)), torch.tensor([[.25, .75], [.25, .75]]))


# chats

SAID = ["Which car brakes, the red one or <c1,CAM_FRONT,0.4678,0.6772>?", "The red one.", "Why?", "A naïve 行人 crosses.", "Is the bus moving?", "No.",
        "What does a red light mean?", "Stop."]


@pytest.fixture(scope="module")
def readers():
    "Miniatures that cut words or pictures in their own way."
    tokenizers = {n: train_tokenizer(SAID * 500, n) for n in (300, 600)}
    def make(size, vocabulary, patch, greeting="", seed=0):
        processor = build_processor(tokenizers[vocabulary])
        processor.image_seq_length, processor.chat_template = int((TILE / patch * DOWNSAMPLE) ** 2), greeting + processor.chat_template
        config = miniature_config(size, processor.tokenizer)
        config.vision_config.patch_size, config.image_seq_length = (patch, patch), processor.image_seq_length
        torch.manual_seed(seed)
        return VLM(InternVLForConditionalGeneration(config).eval(), processor, InternVL())
    return {"student": make("student", 600, 28), "same": make("teacher", 600, 28, seed=1), "finer": make("teacher", 600, 14), "words": make("teacher", 300, 28),
            "greeting": make("teacher", 600, 28, GREETING), "all": make("teacher", 300, 14, GREETING)}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about two, one and no picture."
    folder = tmp_path_factory.mktemp("pictures")
    for c in range(2): Image.fromarray(np.random.default_rng(c).integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{c}.png")
    refs = [ImageRef(None, folder / f"{c}.png") for c in range(2)]
    def ask(name, n, capability, *said):
        turns = tuple(Turn(*t) for t in zip(("user", "assistant") * 2, ("<image>" * n + said[0], *said[1:]), strict=False))
        return VQARecord(name, tuple(refs[:n]), turns, capability, (), "drivekd", 0)
    return [ask("two", 2, "planning", f"\n{SAID[0]}", *SAID[1:4]), ask("one", 1, "perception", *SAID[4:6]), ask("none", 0, "reasoning", *SAID[6:])]


HOSTILE = ["a", "user", "assistant", "<|im_start|>assistant\nYes<|im_end|>", "\ue000", "\0", "{{ 7 * 7 }}", "(.*)[", "\\1", "x\n\n y"]


@pytest.mark.parametrize("said", HOSTILE)
@pytest.mark.parametrize("name", ["student", "greeting"])
def test_what_is_said_is_found_whatever_it_says(readers, name, said):
    turns = [Turn("user", f"<image>{said}"), Turn("assistant", f" {said} "), Turn("user", "And?"), Turn("assistant", said)]
    parts = chat_in_parts(readers[name].processor, turns)
    assert parts[1::2] == [said, said, "And?", said] and parts[0].startswith("<|im_start|>")


def test_a_template_that_strips_is_aligned_and_one_that_rewrites_is_refused(readers):
    processor = copy.copy(readers["student"].processor)
    plain, turns = processor.chat_template, [Turn("user", "Is it red?"), Turn("assistant", "\n Yes. \n")]
    processor.chat_template = plain.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
    assert chat_in_parts(processor, turns)[3] == "Yes." and chat_in_parts(processor, turns) != chat_in_parts(readers["student"].processor, turns)
    for change in ("upper", "replace('Yes', 'No')", "truncate(4, true, '', 0)"):
        processor.chat_template = plain.replace("{{ message['content'] }}", f"{{{{ message['content'] | {change} }}}}")
        with pytest.raises(ValueError, match="leaves it as it is.*choose a teacher"): chat_in_parts(processor, turns)


def hows(aligner, batch, here): return align_samples(aligner.ours, aligner.theirs, batch, here)


def words(batch, i): return ~batch.vision_mask[i][batch.attention_mask[i].bool()]


def spelled(batch, i):
    "Characters of each token of a sample, vision tokens as nothing."
    e = batch.encoded[i]
    return [e.text[a:b] if word else "" for (a, b), word in zip(e.offsets.tolist(), words(batch, i).tolist(), strict=True)]


@pytest.mark.parametrize("name", ["words", "all"])
def test_rows_average_tokens_that_share_characters_and_only_those(readers, records, name):
    aligner = Aligner(readers["student"], readers[name])
    batch, here = aligner.ours(records), aligner.read(aligner.ours(records))
    for n, how in enumerate(hows(aligner, batch, here)):
        left, right = spelled(batch, n), spelled(here, n)
        for i, j in how.rows.dense().nonzero().tolist():
            if left[i] or right[j]: assert left[i] in right[j] or right[j] in left[i] or set(left[i]) & set(right[j])
        answers = batch.encoded[n].labels >= 0
        assert how.partners[0][answers].all() and torch.allclose(how.rows.dense()[answers].sum(1), torch.ones(int(answers.sum())))


def test_template_words_are_partners_only_where_both_templates_say_the_same(readers, records):
    def lacking(name):
        aligner = Aligner(readers["student"], readers[name])
        batch = aligner.ours(records[1:2])
        [how] = hows(aligner, batch, aligner.read(batch))
        return "".join(w for w, has in zip(spelled(batch, 0), how.partners[0], strict=True) if not has)
    assert lacking("finer") == lacking("words") == "" and lacking("greeting") == lacking("all") == "<|im_start|>user\n<img>"


def test_common_characters_have_the_same_numbers():
    x, y, n = common_text([[(0, "a")], [(1, "said")], [(5, "b")]], [[(0, "other")], [(5, "said")], [(9, "b")]])
    assert common_spans(torch.tensor([[0, 1], [1, 5], [4, 6]]), x, n).tolist() == [[0, 0], [0, 4], [3, 5]]
    assert common_spans(torch.tensor([[0, 6], [9, 10]]), y, n).tolist() == [[0, 1], [4, 5]]


# teachers

def shown(vlm, batch, layer=0):
    with torch.no_grad(), listen(vlm, Needs(attention=(layer,)), stop=True) as seen: vlm.model(**batch.model_inputs())
    return seen


FULL = Signal(region="full")


def bring(aligner, seen, batch, here, signal=FULL): return aligner.bring({"x": seen}, {"x": signal}, batch, here)["x"]


def teachers(readers, name, recipe=RECIPE): return Teachers({c.name: readers[name] for c in recipe.capabilities}, recipe, 4, student=readers["student"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["finer", "words", "greeting", "all"])
def test_a_words_look_at_the_pictures_arrives_whole(readers, records, name, side):
    aligner = Aligner(readers["student"], readers[name])
    batch = Batcher(readers["student"], padding_side=side)(records)
    here = aligner.read(batch)
    seen = shown(readers[name], here)
    found = bring(aligner, seen, batch, here)
    for i, how in enumerate(hows(aligner, batch, here)):
        real, there = batch.attention_mask[i].bool(), here.attention_mask[i].bool()
        said, wanted = words(batch, i), how.rows @ seen.attention[0][i][there][:, there]
        got = found.attention[0][i][real][:, real]
        torch.testing.assert_close(got[said][:, ~said].sum(1), wanted[said][:, ~words(here, i)].sum(1))
        assert (got.sum(1) <= 1 + 1e-5).all() and not found.attention[0][i][~real].any() and not found.attention[0][i][:, ~real].any()
        if name != "greeting" and name != "all": torch.testing.assert_close(got[said].sum(1), torch.ones(int(said.sum())))
        assert [side[i][real].tolist() for side in found.partners] == [side.tolist() for side in how.partners]


def test_pictures_come_from_the_place_where_they_were_put(readers, records):
    aligner = Aligner(readers["student"], readers["finer"])
    batch = aligner.ours(records[:1])
    here, [e] = aligner.read(batch), batch.encoded
    maps, seen = torch.zeros(*here.input_ids.shape, here.input_ids.shape[1]), here.encoded[0].patches
    corner = (seen.picture == 1) & (seen.boxes[:, 2:] <= .5).all(1)                            # 2 × 2 of the teacher's 4 × 4, one of the student's 2 × 2
    maps[0, -1, here.vision_mask[0].nonzero()[:, 0][torch.as_tensor(corner)]] = .25
    found = bring(aligner, Signals({0: maps}), batch, here).attention[0][0, -1][batch.vision_mask[0]]
    assert found.argmax() == len(e.patches) // 2 and found.max() == 1 and found.sum() == 1


def test_teachers_who_read_alike_are_left_alone(readers, records):
    batch = Batcher(readers["student"])(records)
    alike, plain = teachers(readers, "same"), Teachers(dict.fromkeys(CAPABILITIES, readers["same"]), RECIPE, 4)
    assert reads_alike(readers["student"], readers["same"]) and alike.alignment == {} and alike.teachers[0].aligner is None
    for name, wanted in plain.targets(batch).items():
        found = alike.targets(batch)[name]
        assert found.partners is None and all(torch.equal(found.attention[l], m) for l, m in wanted.attention.items())


def test_another_processor_with_the_same_tokens_changes_no_bit(readers, records):
    student, twin = readers["student"], copy.copy(readers["same"])
    twin.processor = copy.copy(twin.processor)
    twin.processor.chat_template += "{# says nothing #}"
    batch = Batcher(student)(records)
    assert not reads_alike(student, twin)
    aligned = Teachers(dict.fromkeys(CAPABILITIES, twin), RECIPE, 4, student=student)
    plain = Teachers(dict.fromkeys(CAPABILITIES, readers["same"]), RECIPE, 4)
    losses = [Lesson(student, of, RECIPE).study(batch, Window(student.model.parameters(), RECIPE), static_weights(RECIPE)) for of in (aligned, plain)]
    for term in losses[0]: assert torch.equal(losses[0][term], losses[1][term])


def test_equal_weights_that_read_otherwise_are_two_teachers(readers):
    other = copy.copy(readers["same"])
    other.processor = readers["greeting"].processor
    found = Teachers({"perception": readers["same"], "reasoning": other, "planning": other}, RECIPE, 4, student=readers["student"])
    assert [list(t.signals) for t in found.teachers] == [["perception"], ["reasoning", "planning"]] and set(found.alignment) == {"reasoning", "planning"}


@pytest.mark.parametrize("signal", [c.signal for c in RECIPE.capabilities] + [Signal("attention", "first", "full", "cosine"), Signal(denominator="published")])
def test_only_partners_are_compared(readers, records, signal):
    aligner = Aligner(readers["student"], readers["all"])
    batch = aligner.ours(records)
    here = aligner.read(batch)
    wanted = bring(aligner, shown(readers["all"], here), batch, here, signal)
    maps = shown(readers["student"], batch)
    rows, columns = wanted.partners
    noisy = maps.attention[0] + 7 * ~rows[:, :, None] + 7 * ~columns[:, None]
    first, second = (signal_loss(signal, Signals({0: m}), wanted, batch) for m in (maps.attention[0], noisy))
    assert torch.equal(first, second) and first[:2].gt(0).all() and not rows.all()
    nothing = Signals(wanted.attention, partners=(rows & False, columns & False))
    assert signal_loss(signal, maps, nothing, batch).tolist() == [0, 0, 0]


def test_a_student_learns_from_a_teacher_who_reads_otherwise(readers, records):
    vlm, recipe = copy.deepcopy(readers["student"]), with_options("multi_sum", weights=dict.fromkeys(CAPABILITIES, 1000.0))
    of = Teachers(dict.fromkeys(CAPABILITIES, readers["all"]), recipe, 4, student=vlm)
    lesson, window = Lesson(vlm, of, recipe), Window(vlm.model.parameters(), recipe)
    optimizer, batch, first = torch.optim.AdamW(vlm.model.parameters(), lr=5e-3), Batcher(vlm)(records[1:]), None
    for step in range(8):
        losses = lesson.study(batch, window, static_weights(recipe))
        first = first or losses
        window.combine(key=(step,)); window.finish()
        optimizer.step(); optimizer.zero_grad()
    for term in losses: assert losses[term].mean() < .8 * first[term].mean(), (term, first, losses)


def test_half_precision_around_it_does_not_reach_the_maps(readers, records):
    aligner = Aligner(readers["student"], readers["all"])
    batch = aligner.ours(records)
    here = aligner.read(batch)
    seen = shown(readers["all"], here)
    plain = bring(aligner, seen, batch, here).attention[0]
    with torch.autocast("cpu", torch.bfloat16): assert torch.equal(bring(aligner, seen, batch, here).attention[0], plain)


def test_states_are_averaged_and_odds_compared_where_the_words_are_the_same(readers, records):
    for preset in ("hidden_mid", "kl"):
        recipe, batch = PRESETS[preset], Batcher(readers["student"])([records[1]])
        name = recipe.capabilities[0].name
        theirs = Batcher(readers["finer"])([records[1]])
        batch.capabilities = theirs.capabilities = [name]
        found = teachers(readers, "finer", recipe).targets(batch)[name]
        alone = Teachers({c.name: readers["finer"] for c in recipe.capabilities}, recipe, 4).targets(theirs)[name]
        if preset == "kl": assert torch.equal(found.logits, alone.logits)
        for layer, states in found.hidden.items():
            torch.testing.assert_close(states[0][~batch.vision_mask[0]], alone.hidden[layer][0][~theirs.vision_mask[0]])


# refusals

def test_what_cannot_be_aligned_is_refused_in_one_sentence(readers):
    student = readers["student"]
    check_teachers(student, {"planning": readers["all"], "perception": readers["same"]}, RECIPE)
    check_teacher(student, readers["finer"], "planning", Signal("hidden", "mid", "full"))
    for signal in (Signal("hidden", "mid", "full"), Signal("logits", region="full", distance="kl")):
        with pytest.raises(ValueError, match=f"planning teacher must use the student's tokenizer to teach by {signal.what}"):
            check_teacher(student, readers["words"], "planning", signal)
    with pytest.raises(ValueError, match="student's tokenizer to teach by logits"): check_teachers(student, {"planning": readers["words"]}, with_options("kl"))
    blind = copy.copy(readers["all"])
    blind.family = type("Blind", (InternVL,), {"patches": lambda self, processor, sizes: grid(0)})()
    with pytest.raises(ValueError, match="none lies on one of the student's"): check_teacher(student, blind, "planning")
    rewriting = copy.copy(readers["same"])
    rewriting.processor = copy.copy(rewriting.processor)
    rewriting.processor.chat_template = rewriting.processor.chat_template.replace("{{ part['text'] }}", "{{ part['text'] | upper }}")
    with pytest.raises(ValueError, match="leaves it as it is"): check_teacher(student, rewriting, "planning")


def test_a_sample_whose_pictures_the_teacher_does_not_see_is_named(readers, records):
    aligner = Aligner(readers["student"], readers["finer"])
    batch = aligner.ours(records[1:2])
    here = aligner.read(batch)
    here.encoded[0].patches = Patches(here.encoded[0].patches.picture + 1, here.encoded[0].patches.boxes, here.encoded[0].patches.overview)
    with pytest.raises(ValueError, match="sample 'one' none of the teacher's vision tokens"): hows(aligner, batch, here)


# the target cache

@pytest.mark.parametrize("name", ["finer", "all"])
def test_cached_targets_of_such_a_teacher_are_the_targets_bit_for_bit(tmp_path, readers, records, name):
    student, asked = readers["student"], []
    batch, alone = Batcher(student)(records), Batcher(student)(records[:1])
    of = teachers(readers, name)
    hook = readers[name].model.register_forward_pre_hook(lambda *a: asked.append(1))
    cached, online = CachedTeachers(of, tmp_path, student.processor), of.targets(batch)
    asked.clear()
    first, second, one = cached.targets(batch), StoredTeachers(RECIPE, 4, tmp_path, student.processor).targets(batch), cached.targets(alone)
    hook.remove()
    n = len(alone.input_ids[0])
    assert len(asked) == 1
    for c in RECIPE.capabilities:
        losses = [signal_loss(c.signal, shown_maps(student, batch, target), target, batch) for target in (online[c.name], first[c.name], second[c.name])]
        assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
        for layer, maps in one[c.name].attention.items(): assert torch.equal(maps[0], first[c.name].attention[layer][0][:n, :n])
    files = [f.read_bytes() for f in tmp_path.rglob("*.safetensors")]
    assert sorted(target_bytes(of, batch)) == sorted(len(f) - 8 - int.from_bytes(f[:8], "little") for f in files)


def shown_maps(student, batch, target): return Signals({layer: shown(student, batch, layer).attention[layer] for layer in target.attention})


def test_a_cache_of_another_reading_is_refused(tmp_path, readers):
    student = readers["student"]
    other = copy.copy(readers["all"])
    other.processor = copy.copy(other.processor)
    other.processor.chat_template = other.processor.chat_template.replace("carefully", "slowly")
    CachedTeachers(teachers(readers, "all"), tmp_path, student.processor)
    assert set(json.loads((tmp_path / CARD).read_text())["alignment"]) == set(CAPABILITIES)
    with pytest.raises(ValueError, match="differs in alignment"): CachedTeachers(teachers(readers | {"all": other}, "all"), tmp_path, student.processor)


def test_pictures_that_only_the_student_sees_alike_have_their_own_targets(tmp_path, readers):
    refs = []
    for name, size in (("square", (112, 112)), ("wide", (448, 112))):
        Image.new("RGB", size, "grey").save(tmp_path / f"{name}.png")
        refs.append(ImageRef(None, tmp_path / f"{name}.png"))
    batches = [Batcher(readers["student"])([VQARecord("q", (ref,), (Turn("user", "<image>Red?"), Turn("assistant", "No.")), "planning", (), "drivekd", 0)]) for ref in refs]
    assert len({sample_key(b, 0) for b in batches}) == 1 and len({sample_key(b, 0, source=True) for b in batches}) == 2


# every family teaches every other

@pytest.fixture(scope="module")
def families():
    made = {}
    def of(name):
        if name not in made: made[name] = miniature_vlm(name, SAID * 300, vocab_size=400)
        return made[name]
    return of


def pairs():
    "Every family teaches the shipped student's, the rest takes its time."
    others = [(ours, theirs) for ours in MINIATURES for theirs in MINIATURES if ours != theirs]
    return [pytest.param(*pair, marks=[] if pair in (("internvl", "qwen2_5_vl"), ("internvl", "mllama"), ("mllama", "internvl")) else pytest.mark.slow) for pair in others]


@pytest.mark.parametrize("ours, theirs", pairs())
def test_a_family_teaches_another_where_its_words_look_and_at_which_pictures(families, records, ours, theirs):
    student, teacher = families(ours), families(theirs)
    check_teachers(student, dict.fromkeys(CAPABILITIES, teacher), RECIPE)
    aligner, signal = Aligner(student, teacher), Signal()
    batch = aligner.ours(records)
    here = aligner.read(batch)
    layer = layer_plan(signal, decoder_layers(student), decoder_layers(teacher))[0][1][0]
    seen = shown(teacher, here, layer)
    found = bring(aligner, seen, batch, here, signal).attention[layer]
    for i, how in enumerate(hows(aligner, batch, here)):
        real, there, e = batch.attention_mask[i].bool(), here.attention_mask[i].bool(), here.encoded[i]
        sees = torch.as_tensor((e.patches.boxes[:, 2:] > e.patches.boxes[:, :2]).all(1))          # keys of a black remainder have no extent
        wanted = how.rows @ seen.attention[layer][i][there][:, here.columns(i)[sees]]
        got = found[i][real][:, batch.columns(i)]
        torch.testing.assert_close(got[words(batch, i)].sum(1), wanted[words(batch, i)].sum(1))
        for picture in range(len(e.record.images)):                                                # and of each picture
            part, of = (torch.as_tensor(x.encoded[i].patches.picture == picture) for x in (batch, here))
            mine = how.rows @ seen.attention[layer][i][there][:, here.columns(i)[sees & of]]
            torch.testing.assert_close(got[words(batch, i)][:, part].sum(1), mine[words(batch, i)].sum(1))
    targets = Teachers(dict.fromkeys(CAPABILITIES, teacher), RECIPE, decoder_layers(student), student=student).targets(batch)
    with torch.no_grad(), listen(student, student_needs(RECIPE, decoder_layers(student)), maps=False) as own: student.model(**batch.model_inputs())
    for c in RECIPE.capabilities:
        loss = signal_loss(c.signal, own, targets[c.name], batch)
        assert loss.isfinite().all() and loss[:2].gt(0).all(), c.name
