"Counts are counts: an unclear reply is wrong, models are compared on the same questions, splits share no frame."
import math
from types import SimpleNamespace

import pytest
import torch

from drivekd.data.formats import Turn
from drivekd.data.records import VQARecord
from drivekd.distill.losses import answer_cross_entropy, answer_positions
from drivekd.models.batching import Batcher
from drivekd.study.benchmark import ALL, Row, answer_losses, compare, is_closed, moment, score, summarise
from drivekd.study.choices import LETTERS
from drivekd.study.heldout import frame_groups, lessons, pick, split_frames


def record(question="?", answer="B", id="q", capability="perception", images=(), **meta):
    return VQARecord(id, images, (Turn("user", question), Turn("assistant", answer)), capability, (), "drivekd", 0, meta)


# counting

def rows(right, truth="A", unread=()):
    return [Row(f"q{i}", ("perception", "planning")[i % 2], "k", "choice", "?", "", truth, None if i in unread else truth if ok else "B", 0.25, f"f{i // 4}") for i, ok in enumerate(right)]


def test_only_questions_with_one_right_answer_are_closed():
    assert is_closed(record("Is it a sign?", "No.")) and not is_closed(record("What?", "Keep going."))


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
