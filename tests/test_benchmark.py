"Replies are read for what they mean; silence and contradiction are no answer; counts are counts."
import math
from types import SimpleNamespace

import pytest
import torch

from drivekd.data.formats import Turn
from drivekd.data.records import VQARecord
from drivekd.distill.losses import answer_cross_entropy, answer_positions
from drivekd.models.batching import Batcher
from drivekd.study.benchmark import ALL, Row, answer_losses, compare, is_closed, moment, score, summarise
from drivekd.study.choices import LETTERS, closed_form, parse_options, read_choice, read_yes_no
from drivekd.study.heldout import frame_groups, lessons, pick, split_frames

MOVING = {"A": "Going ahead.", "B": "Stopped.", "C": "Turn left.", "D": "Turn right."}
BEHAVIOUR = {"A": "The ego vehicle is going straight. The ego vehicle is driving fast.", "B": "The ego vehicle is going straight. The ego vehicle is driving slowly.",
             "C": "The ego vehicle is slightly steering to the left. The ego vehicle is driving fast.", "D": "The ego vehicle is steering to the left. The ego vehicle is driving slowly."}

REPLIES = [  # options, reply, letter meant
    # a bare letter in all its clothes
    (MOVING, "B", "B"), (MOVING, "b", "B"), (MOVING, "B.", "B"), (MOVING, "(b)", "B"), (MOVING, "(B)", "B"), (MOVING, "b)", "B"), (MOVING, "[B]", "B"), (MOVING, " B \n", "B"),
    (MOVING, "**B**", "B"), (MOVING, "`C`", "C"), (MOVING, "{D}", "D"), (MOVING, "Ｂ", "B"), (MOVING, "B:", "B"), (MOVING, "\"B\"", "B"), (MOVING, "$\\boxed{B}$", "B"),
    (MOVING, "\\boxed{\\text{C}}", "C"), (MOVING, "<answer>D</answer>", "D"), (MOVING, "Option B", "B"), (MOVING, "option c.", "C"), (MOVING, "Choice (D)", "D"),
    # a letter with words
    (MOVING, "B. Stopped.", "B"), (MOVING, "B: Stopped", "B"), (MOVING, "B - Stopped", "B"), (MOVING, "B) Stopped.", "B"), (MOVING, "B Stopped.", "B"), (MOVING, "(B) Stopped.", "B"),
    (MOVING, "B\nThe car has its brake lights on.", "B"), (MOVING, "B. The object is a van", "B"), (MOVING, "D, because its right indicator is on.", "D"),
    (MOVING, "A. Going ahead.", "A"), (MOVING, "A", "A"), (MOVING, "A, since it keeps its lane", "A"),
    # the project's own templates
    (MOVING, "Final: B. Stopped.\nObject: grey car\nPosition & orientation: front, back visible", "B"), (MOVING, "Final: {B. Stopped.}", "B"), (MOVING, "Final: {B}", "B"),
    (MOVING, "Final: C. Turn left.", "C"), (MOVING, "FINAL - (B)", "B"), (MOVING, "Final: Turn left.", "C"), (MOVING, "Final: B. Stop", "B"),
    (BEHAVIOUR, "Final: C. The ego vehicle is slightly steering", "C"),
    # a statement after much talk
    (MOVING, "It is a car with a blinking light; the answer is C", "C"), (MOVING, "A car is seen in front. The answer is D.", "D"), (MOVING, "The correct answer is: (B)", "B"),
    (MOVING, "Answer: B", "B"), (MOVING, "**Answer:** B. Stopped.", "B"), (MOVING, "Final answer: C", "C"), (MOVING, "The correct option is D.", "D"), (MOVING, "The answer should be B", "B"),
    (MOVING, "I'd say D", "D"), (MOVING, "I would choose C.", "C"), (MOVING, "I think it's B.", "B"), (MOVING, "So B.", "B"), (MOVING, "Therefore, option D is correct.", "D"),
    (MOVING, "A. Going ahead. B. Stopped. C. Turn left. D. Turn right. Answer: B", "B"),
    (MOVING, "The options are A, B, C and D. The brake lights are on. The answer is B.", "B"),
    # denial
    (MOVING, "B, not A", "B"), (MOVING, "Not A, but B", "B"), (MOVING, "The answer is not A. It is B.", "B"), (MOVING, "A is wrong, so D.", "D"), (MOVING, "B rather than C", "B"),
    (MOVING, "It isn't A; it is C.", "C"), (MOVING, "Neither A nor B, so C", "C"), (MOVING, "I exclude A. B.", "B"),
    # the option's words
    (MOVING, "Turn right.", "D"), (MOVING, "The object is going ahead.", "A"), (MOVING, "stopped", "B"), (MOVING, "It is not going ahead, it is stopped.", "B"),
    (BEHAVIOUR, "The ego vehicle is going straight. The ego vehicle is driving slowly.", "B"),
    (BEHAVIOUR, "The ego vehicle is slightly steering to the left. The ego vehicle is driving fast.", "C"),
    ({"A": "Keep going at the same speed.", "B": "Slow down."}, "the ego vehicle should slow down", "B"),
    ({"A": "Turn left.", "B": "Slightly turn left."}, "Slightly turn left.", "B"), ({"A": "Yes.", "B": "No."}, "No.", "B"), ({"A": "20", "B": "120"}, "120", "B"),
    # nothing, several, or a contradiction
    (MOVING, "", None), (MOVING, "   \n", None), (MOVING, "A car is turning.", None), (MOVING, "a car", None), (MOVING, "I do not know.", None), (MOVING, "A or B", None), (MOVING, "A/B", None),
    (MOVING, "Both A and C", None), (MOVING, "A, B, C, D", None), (MOVING, "E", None), (MOVING, "None of the above", None), (MOVING, "Neither A nor B.", None),
    (MOVING, "A. Going ahead. B. Stopped. C. Turn left. D. Turn right.", None), (MOVING, "Final: A or B", None), (MOVING, "Final: B. Turn left.", None), (MOVING, "B. Turn left.", None),
    (MOVING, "The answer is A. The answer is B.", None), (MOVING, "<c1,CAM_BACK,0.5,0.5>", None), (MOVING, "The class of the bus is unknown", None), (MOVING, "Turn left or turn right.", None),
    (BEHAVIOUR, "The ego vehicle is going straight.", None), (MOVING, "\ufffd\ufffd\x00", None), (MOVING, "The left turn light of a sedan blinks", None), (MOVING, "ABCD", None),
    (MOVING, "I am a language model", None), (MOVING, "The answer is not A.", None), (MOVING, "Not A.", None), (MOVING, "Vitamin D-rich road", None), (MOVING, "C'est la vie", None),
]


@pytest.mark.parametrize(("options", "reply", "letter"), REPLIES, ids=[r[:40] for _, r, _ in REPLIES])
def test_a_reply_is_read_for_the_letter_it_means(options, reply, letter):
    assert read_choice(reply, options) == letter


def test_the_table_of_replies_is_long_and_does_not_favour_a_letter():
    assert len(REPLIES) >= 100 and {letter for _, _, letter in REPLIES} == {*"ABCD", None}


def test_options_may_be_given_as_a_list():
    assert read_choice("Final: B. Slow.", ["Fast.", "Slow."]) == "B"


@pytest.mark.parametrize("letter", "ABCD")
def test_every_letter_is_read_alike(letter):
    for form in ("{}", "({})", "Final: {}.", "The answer is {}", "Option {}", "{}, because of the lights", "**{}.**", "Final: {{{}}}"):
        assert read_choice(form.format(letter), MOVING) == letter, form


def test_a_long_reply_is_read_quickly():
    assert read_choice("the car is a " * 20_000 + "The answer is B", MOVING) == "B"
    assert read_choice("A" * 200_000, MOVING) is None


@pytest.mark.parametrize(("reply", "read"), [
    ("Yes.", "yes"), ("no", "no"), ("No, it is not.", "no"), ("Final: No.", "no"), ("**Yes**", "yes"), ("The answer is yes.", "yes"), ("yes or no", None), ("Yes and no.", None), ("", None), ("nothing", None),
    ("No such action.", None), ("not sure", None), ("north", None), ("Yes, it is a sign; no doubt.", "yes")])
def test_yes_and_no_are_words_not_letters(reply, read):
    assert read_yes_no(reply) == read


# options in questions

@pytest.mark.parametrize(("question", "options"), [
    ("How? A. Going ahead. B. Stopped.", {"A": "Going ahead.", "B": "Stopped."}), ("How?\nA) red\nB) green\nAnswer with the letter.", {"A": "red", "B": "green"}),
    ("How? (A) red (B) green (C) blue", {"A": "red", "B": "green", "C": "blue"}), ("Is object A. moving?", {}), ("How? A. x C. y", {}), ("", {}), ("<c1,CAM_FRONT,0.1,0.2> moves? A: x B: y", {"A": "x", "B": "y"}),
    ("Object A. is a car. How does it move? A. ahead B. back C. left D. right E. not", dict(zip("ABCDE", ("ahead", "back", "left", "right", "not"))))])
def test_options_are_found_in_the_question(question, options):
    assert parse_options(question) == options


def record(question="?", answer="B", id="q", capability="perception", images=(), **meta):
    return VQARecord(id, images, (Turn("user", question), Turn("assistant", answer)), capability, (), "drivekd", 0, meta)


def test_the_world_says_its_letter_and_other_files_write_it():
    assert closed_form(record("How?", "Final: C. x", options=["u", "v", "x"], letter="C")).truth == "C"
    form = closed_form(record("How? A. Fast. B. Slow.", "B"))
    assert (form.way, form.truth, form.chance) == ("choice", "B", 0.5)


@pytest.mark.parametrize("answer", ["No such action will lead to a collision.", "Keep going.", "Yes, there is a car.", "North"])
def test_open_questions_are_not_scored(answer):
    assert closed_form(record("What?", answer)).way == "open" and not is_closed(record("What?", answer))


def test_a_choice_whose_true_letter_cannot_be_read_is_open():
    assert closed_form(record("How? A. Fast. B. Slow.", "medium")).way == "open"
    assert closed_form(record("How? A. Fast. B. Slow.", "C")).way == "open"


# counting

def rows(right, truth="A", unread=()):
    return [Row(f"q{i}", ("perception", "planning")[i % 2], "k", "choice", "?", "", truth, None if i in unread else truth if ok else "B", 0.25, f"f{i // 4}") for i, ok in enumerate(right)]


def test_an_unclear_reply_is_wrong_and_counted():
    summary = summarise(rows([True, True, True, True], unread=(0, 2)))
    assert summary["perception"].counts == (0, 2) and summary["perception"].unread == 2 and summary["planning"].counts == (2, 2)


def test_silence_never_scores_whatever_the_truth():
    for letter in LETTERS[:4]:
        assert not score(record("How? A. u B. v C. x D. y", letter), "").right


def test_the_interval_holds_the_accuracy_and_chance_is_the_mean_of_the_questions():
    s = summarise(rows([True, True, False, False] * 5))["perception"]
    assert s.accuracy.low < s.accuracy.estimate < s.accuracy.high and math.isclose(s.chance, 0.25)


def test_a_comparison_is_antisymmetric_and_counts_gains_and_losses():
    a, b = rows([True, True, False, False] * 6), rows([True, False, True, True] * 6)
    there, back = compare(a, b)[ALL], compare(b, a)[ALL]
    assert math.isclose(there.estimate, -back.estimate) and (there.gained, there.lost) == (back.lost, back.gained) == (12, 6)


def test_a_model_does_not_differ_from_itself():
    same = compare(rows([True, False] * 8), rows([True, False] * 8))
    assert all(d.estimate == d.low == d.high == 0 and d.p == 1 for d in same.values())


def test_different_questions_are_not_compared():
    with pytest.raises(ValueError, match="same questions"): compare(rows([True, True]), rows([True]))


# who learns what, who is asked what

def quiz(id, pictures, capability="planning", kind="k", frame=None):
    meta = {"kind": kind} | ({"frame_token": frame} if frame else {})
    return VQARecord(id, tuple(SimpleNamespace(path=p) for p in pictures), (Turn("user", "?"), Turn("assistant", "a")), capability, (), "drivekd", 0, meta)


def test_no_picture_and_no_frame_stands_on_both_sides_of_a_split():
    records = [quiz(f"q{i}", {f"p{i % 17}", f"p{i * 7 % 17}"} if i % 3 else {f"r{i}"}, frame=f"f{i % 23}" if i % 2 else None) for i in range(60)]
    for seed in range(5):
        learn, held = split_frames(records, 0.3, seed)
        assert len(learn) + len(held) == 60 and learn and held
        assert not {p.path for r in learn for p in r.images} & {p.path for r in held for p in r.images}
        assert not {r.frame for r in learn} & {r.frame for r in held} - {None}


def test_a_split_does_not_depend_on_the_order_of_the_file():
    records = [quiz(f"q{i}", {f"p{i}"}) for i in range(20)]
    sides = [{r.id for r in split_frames(order, 0.25)[1]} for order in (records, records[::-1])]
    assert sides[0] == sides[1] and len(sides[0]) == 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_split_needs_two_sides(fraction):
    with pytest.raises(ValueError, match="fraction"): split_frames([quiz("a", "x"), quiz("b", "y")], fraction)


def test_one_frame_cannot_be_split():
    with pytest.raises(ValueError, match="two frames"): split_frames([quiz("a", "x"), quiz("b", "x")])


def test_a_question_joins_what_was_apart():
    assert [[r.id for r in g] for g in frame_groups([quiz("a", "x"), quiz("b", "y"), quiz("c", "z"), quiz("d", "xy")])] == [["a", "b", "d"], ["c"]]


def test_rare_kinds_are_asked_as_often_as_frequent_ones():
    chosen = pick([quiz(f"q{i}", "x", kind="rare" if i < 3 else "frequent") for i in range(50)], 6)
    assert sorted(r.meta["kind"] for r in chosen) == ["frequent"] * 3 + ["rare"] * 3


def test_lessons_are_whole_batches_that_repeat():
    records = [quiz(f"q{i}", "abcdef" if i % 3 else "a") for i in range(22)]
    plan = lessons(records, 4, 13, seed=1)
    assert len(plan) == 52 and plan == lessons(records, 4, 13, seed=1) != lessons(records, 4, 13, seed=2)
    first_epoch = [r.id for r in plan[:20]]
    assert len(set(first_epoch)) == 20


def test_few_records_make_small_batches():
    assert len(lessons([quiz("a", "x"), quiz("b", "x")], 8, 3)) == 6


def test_questions_about_one_moment_share_their_group():
    assert moment(quiz("a", ["x"], frame="f")) == moment(quiz("b", ["y"], frame="f")) != moment(quiz("c", ["y"]))


# answer losses

@pytest.mark.parametrize("side", ["right", "left"])
def test_answer_losses_are_those_of_the_logits_of_all_tokens(student, side):
    asked = [("Is the object in front of the bus moving?", "No."), ("Left?", "A red car. It turns."), ("What?", "B.")]
    records = [VQARecord(f"q{i}", (), (Turn("user", q), Turn("assistant", a)), "planning", (), "drivekd", 0) for i, (q, a) in enumerate(asked)]
    batch = Batcher(student, padding_side=side)(records)
    with torch.no_grad():
        whole = answer_cross_entropy(student.model(**batch.model_inputs()).logits, batch.labels)
        kept = student.model(**batch.model_inputs(), logits_to_keep=answer_positions(batch.labels)).logits
    assert kept.shape[0] == (batch.labels != -100).sum() < batch.labels.numel()
    assert answer_cross_entropy(kept, batch.labels).tolist() == pytest.approx(whole.tolist(), rel=1e-6)
    assert answer_losses(student, records, batch_size=2, progress=False) == pytest.approx(whole.tolist(), rel=1e-5)
