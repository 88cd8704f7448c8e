"A constant answer is no skill, silence is never right, and questions of one frame do not count as many."
import math

import numpy as np
import pytest

from drivekd.study.intervals import wilson
from drivekd.study.scores import accuracies, accuracy, balanced_accuracy, bootstrap, constant, count, interval, lift, majority

SKEWED = ["A"] * 59 + ["B"] * 20 + ["C"] * 15 + ["D"] * 6  # DriveBench's perception questions: A is right in 59 %


@pytest.mark.parametrize("letter", "ABCD")
def test_any_constant_has_the_balanced_accuracy_of_chance(letter):
    got = accuracies(SKEWED, [letter] * 100)
    assert got.balanced.estimate == 0.25 and got.accuracy.estimate == SKEWED.count(letter) / 100


def test_always_a_has_no_lift_over_itself():
    got = accuracies(SKEWED, ["A"] * 100)
    assert got.always_a == 0.59 and got.most_frequent == ("A", 0.59) and tuple(got.lift) == (0, 0, 0)


def test_by_hand():
    got = accuracies(["A", "A", "B", "B", "A"], ["A", "B", "B", None, "A"], ["f", "f", "f", "g", "g"])
    assert (got.right, got.asked, got.frames, got.unread) == (3, 5, 2, 1)
    assert got.accuracy.estimate == 3 / 5 and got.balanced.estimate == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert got.recall == pytest.approx({"A": 2 / 3, "B": 1 / 2}) and got.said == {"A": 2, "B": 2}


def test_two_silences_do_not_agree():
    published = lambda reply, truth: reply == truth  # both are "" where nothing was read
    assert published("", "") and accuracies(["A", "B"], [None, None]).right == 0
    with pytest.raises(ValueError, match="1 truths empty"): accuracies(["A", ""], ["A", ""])


def test_letters_beyond_d_count():
    got = accuracies(["E", "F", "A"], ["E", "F", "A"])
    assert got.right == 3 and got.recall == {"A": 1, "E": 1, "F": 1}


def test_a_constant_that_is_never_right_has_zero():
    assert constant(count(["B", "C"], ["B", "C"]), "A") == 0


def test_yes_and_no_are_letters_too():
    assert accuracies(["yes", "no", "no"], ["yes", "yes", None]).balanced.estimate == 0.5


@pytest.mark.parametrize("answers", [[None] * 60, ["A"] * 60])
def test_all_right_or_all_wrong_is_not_certain(answers):
    got = accuracies(["A"] * 60, answers, [i // 3 for i in range(60)])
    assert got.accuracy == got.balanced == wilson(20 if answers[0] else 0, 20)


def test_questions_of_one_frame_widen_the_interval():
    read = ["A" if i < 100 else "B" for i in range(200)]
    width = lambda groups: (lambda i: i.high - i.low)(bootstrap(count(["A"] * 200, read, groups), accuracy))
    assert width([i // 10 for i in range(200)]) > 2 * width(None)


def test_independent_questions_have_about_wilsons_interval():
    read = ["A" if i % 3 else "B" for i in range(300)]
    got = interval(count(["A"] * 300, read), accuracy)
    assert got == pytest.approx(wilson(200, 300), abs=0.01)


def test_bounds_cover_the_truth_about_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(80):
        skill = rng.beta(3, 2, 60)  # each frame has its own difficulty; mean 0.6
        read = ["A" if rng.random() < skill[i // 4] else "B" for i in range(240)]
        got = bootstrap(count(["A"] * 240, read, [i // 4 for i in range(240)]), accuracy, draws=300, seed=trial)
        hits += got.low <= 0.6 <= got.high
    assert 68 <= hits  # 85 %; 400 trials gave 94.75 %


def test_one_frame_says_nothing_about_others():
    got = bootstrap(count(["A", "B"], ["A", "A"], ["f", "f"]), accuracy)
    assert got.estimate == 0.5 and math.isnan(got.low) and math.isnan(got.high)


def test_the_order_of_the_questions_does_not_matter():
    order = np.random.default_rng(0).permutation(100)
    read, frames = ["A" if i % 3 else "B" for i in range(100)], [f"f{i % 10}" for i in range(100)]
    a, b = accuracies(SKEWED, read, frames), accuracies(*([x[i] for i in order] for x in (SKEWED, read, frames)))
    assert (a.right, a.recall, a.balanced.estimate, a.said) == (b.right, b.recall, b.balanced.estimate, b.said)


def test_the_lift_is_paired():
    read = [t if i % 2 else "A" for i, t in enumerate(SKEWED)]  # never worse than always A
    got = lift(count(SKEWED, read), "A")
    assert got.low >= 0 and got.estimate == pytest.approx(sum(t == r for t, r in zip(SKEWED, read)) / 100 - 0.59)


def test_the_first_of_equal_letters_is_the_majority():
    assert majority(count(["B", "A"], ["A", "A"])) == "A"


def test_letters_without_questions_in_a_redraw_are_left_out():
    assert balanced_accuracy(np.array([2.0, 0.0]), np.array([1.0, 0.0])) == 0.5


@pytest.mark.parametrize(("truth", "read", "groups"), [([], [], None), (["A"], [], None), (["A"], ["A"], ["f", "g"])])
def test_what_does_not_fit_together_is_refused(truth, read, groups):
    with pytest.raises(ValueError, match="every question needs"): accuracies(truth, read, groups)
