"Claims about online loss weights (published code)."
import pytest
import torch

from drivekd.distill.reweighting import (
    PublishedReweighting,
    load_reweighting_state,
    make_reweighting,
    renormalise,
    reweighting_objective,
    reweighting_state,
)

TERMS = ("ce", "perception", "reasoning", "planning")
# Six steps of the published code: norms of the unweighted gradients, weights after the step (static weights 1, 20, 20, 20).
RECORDED = [
    ([25.9020727, 0.0143140078, 0.00521060045, 0.0350617635], [0.999798715, 20.0000668, 20.0000668, 20.0000668]),
    ([39.2576745, 0.0109998616, 0.0045851948, 0.0726699521], [0.999599814, 20.0001354, 20.0001373, 20.0001278]),
    ([43.793773, 0.0144908164, 0.00474287379, 0.102861275], [0.9993999, 20.0002041, 20.0002079, 20.0001869]),
    ([29.4833615, 0.0139255282, 0.00568595189, 0.0648743004], [0.999202073, 20.0002728, 20.0002766, 20.0002441]),
    ([49.3890229, 0.0106818818, 0.00434628215, 0.0853243024], [0.999002695, 20.0003414, 20.0003471, 20.0003109]),
    ([37.7937578, 0.0139540334, 0.00537929331, 0.178401777], [0.998803139, 20.000412, 20.0004196, 20.00037]),
]
STATIC = dict(zip(TERMS, (1.0, 20.0, 20.0, 20.0)))


def named(values):
    return dict(zip(TERMS, values))


def feed(reweighting, norms, losses=(1.0, 1.0, 1.0, 1.0)):
    reweighting.observe(named(losses), named(norms))
    return reweighting.step()


def test_published_rule_repeats_the_recorded_weights():
    reweighting = make_reweighting("published", STATIC)
    for norms, expected in RECORDED:
        assert feed(reweighting, norms) == pytest.approx(named(expected), rel=2e-7)


def test_published_rule_averages_norms_over_the_window():
    one, four = make_reweighting("published", STATIC), make_reweighting("published", STATIC)
    for _ in range(3):
        for factor in (0.0, 0.5, 1.5, 2.0): four.observe(named([1.0] * 4), named([factor * n for n in RECORDED[0][0]]))
        assert four.step() == pytest.approx(feed(one, RECORDED[0][0]), rel=1e-6)


def test_a_term_absent_from_some_micro_batches_is_divided_by_the_whole_window():
    reweighting = make_reweighting("off", {"ce": 1, "planning": 1})
    reweighting.observe({"ce": 1.0, "planning": 1.0}, {"ce": 1.0, "planning": 1.0})
    reweighting.observe({"ce": 1.0}, {"ce": 1.0})
    reweighting.step()
    assert reweighting.ratios == {"planning": 0.5}


def test_published_weights_keep_their_sum_and_the_floor_of_ce():
    reweighting = make_reweighting("published", dict.fromkeys(TERMS, 1.0), lr=0.05)
    for _ in range(300):
        weights = feed(reweighting, (1.0, 1e-4, 1e-3, 1e-4))
        assert sum(weights.values()) == pytest.approx(4, rel=1e-6) and weights["ce"] >= 0.6
    assert weights["ce"] == 0.6 and weights["planning"] == pytest.approx(3.4 / 3, rel=1e-3)


def test_published_rule_leaves_absent_terms_alone():
    reweighting = make_reweighting("published", STATIC)
    feed(reweighting, RECORDED[0][0])
    before = dict(reweighting.weights)
    reweighting.observe({"ce": 1.0, "planning": 1.0}, {"ce": 3.0, "planning": 0.1})
    after = reweighting.step()
    assert after["perception"] == before["perception"] and after["reasoning"] == before["reasoning"]
    assert after["ce"] + after["planning"] == pytest.approx(21) and after["ce"] != before["ce"]
    assert torch.nn.functional.softplus(reweighting.a).tolist() == pytest.approx(list(after.values()))


def test_alpha_favours_terms_that_lag_behind():
    norms, static = torch.ones(2), torch.ones(2)
    a = torch.zeros(2, requires_grad=True)
    reweighting_objective(a, norms, static, torch.tensor([1.0, 0.5]), alpha=1.0).backward()
    assert a.grad[0] < 0 < a.grad[1]  # the first term has gained less, so its weight should rise


def test_renormalise_keeps_proportions_of_the_others_at_the_floor():
    assert renormalise({"ce": .1, "a": 1.0, "b": 2.0}, 3.6) == pytest.approx({"ce": .6, "a": 1.0, "b": 2.0})
    assert renormalise({"ce": 1.0, "a": 1.0}, 1.0) == pytest.approx({"ce": .6, "a": .4})
    assert renormalise({"a": 1.0, "b": 3.0}, 2.0) == {"a": .5, "b": 1.5}


def test_norm_matching_reaches_its_ratio_whatever_the_scale():
    for scale in (1e-8, 1.0, 1e8):
        reweighting = make_reweighting("norm_matched", named((2.0, 1.0, 1.0, 3.0)), ratio=0.25)
        for _ in range(3): feed(reweighting, (scale, scale * 1e-4, scale * 1e3, scale * 1e-2))
        assert reweighting.ratios == pytest.approx({"perception": .25, "reasoning": .25, "planning": .75})
        assert reweighting.weights["ce"] == 2.0


def test_norm_matching_ignores_silent_terms_and_needs_ce():
    reweighting = make_reweighting("norm_matched", named((1.0, 1.0, 1.0, 1.0)))
    assert feed(reweighting, (0.0, 1.0, 1.0, 1.0)) == named((1.0, 1.0, 1.0, 1.0))
    assert make_weights_after_silence() == pytest.approx({"ce": 1.0, "perception": 1.0, "reasoning": 10.0, "planning": 10.0})
    with pytest.raises(ValueError, match="ce"): make_reweighting("norm_matched", {"perception": 1.0})


def make_weights_after_silence():
    return feed(make_reweighting("norm_matched", named((1.0, 1.0, 1.0, 1.0))), (1.0, 0.0, 0.1, 0.1))


def test_norm_matching_smooths_single_outliers():
    reweighting = make_reweighting("norm_matched", named((1.0, 1.0, 1.0, 1.0)), memory=0.9)
    for _ in range(30): feed(reweighting, (1.0, 1.0, 1.0, 1.0))
    assert feed(reweighting, (1.0, 11.0, 1.0, 1.0))["perception"] == pytest.approx(1 / 2, rel=.05)


def test_off_never_changes_a_weight():
    reweighting = make_reweighting("off", STATIC)
    for norms, _ in RECORDED: assert feed(reweighting, norms) == STATIC


def test_terms_of_weight_zero_take_no_part():
    assert make_reweighting("published", {"ce": 1.0, "planning": 0.0}).weights == {"ce": 1.0}


@pytest.mark.parametrize("mode", ["off", "published", "norm_matched"])
def test_a_resumed_run_goes_on_bit_for_bit(mode, tmp_path):
    from safetensors.torch import load_file, save_file
    whole, resumed = make_reweighting(mode, STATIC), make_reweighting(mode, STATIC)
    for norms, _ in RECORDED[:3]: feed(whole, norms, (3.0, .1, .2, .3))
    save_file(reweighting_state(whole), tmp_path / "state.safetensors")
    load_reweighting_state(resumed, load_file(tmp_path / "state.safetensors"))
    for norms, _ in RECORDED[3:]: assert feed(resumed, norms) == feed(whole, norms)


def test_a_state_taken_before_the_first_step_can_be_loaded():
    load_reweighting_state(make_reweighting("published", STATIC), reweighting_state(PublishedReweighting(STATIC)))


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="recipe"):
        load_reweighting_state(make_reweighting("published", STATIC), reweighting_state(make_reweighting("off", STATIC)))
    with pytest.raises(ValueError, match="recipe"):
        load_reweighting_state(make_reweighting("off", {"ce": 1.0}), reweighting_state(make_reweighting("off", STATIC)))


def test_bad_weights_and_modes_are_refused():
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="found"): make_reweighting("off", {"ce": bad})
    with pytest.raises(ValueError, match="'on'"): make_reweighting("on", STATIC)
