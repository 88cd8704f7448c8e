"""Intervals against published values, exact enumeration and simulation."""

from itertools import product

import numpy as np
import pytest

from drivekd.study.intervals import mcnemar, paired_difference, wilson


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_newcombes_table(successes, n, low, high):
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high) and found.estimate == successes / n


def test_wilson_is_symmetric_bounded_and_narrows():
    for n in (1, 7, 60, 1000):
        for k in range(0, n + 1, max(1, n // 7)):
            a, b = wilson(k, n), wilson(n - k, n)
            assert 0 <= a.low <= a.estimate <= a.high <= 1
            assert np.isclose(a.low, 1 - b.high) and np.isclose(a.high, 1 - b.low)
    assert wilson(50, 100).high - wilson(50, 100).low > wilson(500, 1000).high - wilson(500, 1000).low
    assert wilson(5, 10, 0.99).low < wilson(5, 10, 0.9).low


@pytest.mark.parametrize("successes, n", [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


@pytest.mark.parametrize("gained, lost", [(0, 0), (1, 0), (5, 2), (9, 1), (4, 4), (0, 6)])
def test_mcnemar_equals_enumeration_of_fair_coins(gained, lost):
    n = gained + lost
    uneven = [abs(2 * sum(c) - n) >= abs(gained - lost) for c in product((0, 1), repeat=n)]
    assert np.isclose(mcnemar(gained, lost), np.mean(uneven)) and mcnemar(gained, lost) == mcnemar(lost, gained)


def test_difference_of_a_model_with_itself_is_exactly_zero():
    scores = [1, 0, 1, 1, 0]
    assert paired_difference(scores, scores)[:5] == (0.0, 0.0, 0.0, 0, 0)


def test_difference_changes_sign_with_the_order_and_repeats_with_the_seed():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    d, e = paired_difference(a, b), paired_difference(b, a)
    assert np.allclose([d.estimate, d.low, d.high], [-e.estimate, -e.high, -e.low]) and (d.gained, d.lost) == (e.lost, e.gained)
    assert d == paired_difference(a, b)


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(1)
    delta = rng.normal(0.3, 1, 400)
    d = paired_difference(np.zeros(400), delta)
    half = 1.96 * delta.std() / 20
    assert np.allclose([d.low, d.high], [delta.mean() - half, delta.mean() + half], atol=0.02) and np.isnan(d.p)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    hits = 0
    for i in range(200):
        a = rng.random(120) < 0.5
        b = np.where(rng.random(120) < 0.4, rng.random(120) < 0.7, a)
        d = paired_difference(a, b, draws=400, seed=i)
        hits += d.low <= 0.4 * (0.7 - 0.5) <= d.high
    assert 180 <= hits <= 199


def test_groups_that_move_together_widen_the_interval():
    groups = np.repeat(np.arange(30), 4)
    moved = np.repeat(np.random.default_rng(3).integers(-1, 2, 30), 4)
    alone, together = paired_difference(0 * moved, moved), paired_difference(0 * moved, moved, groups=groups)
    assert 1.6 < (together.high - together.low) / (alone.high - alone.low) < 2.4  # sqrt(4) for perfect correlation
    assert together.estimate == alone.estimate


@pytest.mark.parametrize("a, b, groups", [([1], [1, 0], None), ([], [], None), ([1, 0], [0, 1], [1])])
def test_answers_that_do_not_pair_are_refused(a, b, groups):
    with pytest.raises(ValueError, match="align"):
        paired_difference(a, b, groups=groups)


def test_one_group_gives_no_interval():
    d = paired_difference([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], groups=["a"] * 3)
    assert d.estimate == pytest.approx(1 / 3) and np.isnan(d.low) and np.isnan(d.high)
