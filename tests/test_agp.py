"Claims about gradient conflict handling: oracle written from the paper's rule, bounds, support, TorchJD's contract."
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd.aggregation import Weighting

from drivekd.distill.agp import (
    AGP,
    Telemetry,
    agp_weights,
    combine,
    conflict_weights,
    gram,
    keyed_permutation,
    pair_rows,
    resolve,
    support_gram,
)

F64 = torch.float64
TERMS = ("ce", "perception", "reasoning", "planning")


def rows(seed: int, k: int = 4, n: int = 24, scale=1.0) -> torch.Tensor:
    "Random gradients whose conflicts are common: few parameters, followers of several lengths."
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(k, n, generator=generator, dtype=F64)
    matrix[1:] *= torch.logspace(-1, 1, k - 1, dtype=F64)[torch.randperm(k - 1, generator=generator)][:, None] * scale
    return matrix


def as_tensors(matrix: torch.Tensor, missing=()) -> list[list[torch.Tensor | None]]:
    "Rows cut into tensors of 3 parameters; `missing` names (term, tensor) without gradient."
    return [[None if (i, j) in missing else part for j, part in enumerate(row.split(3))] for i, row in enumerate(matrix)]


def dot(a, b):
    "Inner product over tensors that both have."
    return sum(((x * y).sum() for x, y in zip(a, b) if x is not None and y is not None), torch.zeros((), dtype=F64))


def add(a, b, factor=1.0):
    "a + factor·b where both exist, the other one where one is missing."
    return [y if x is None else x if y is None else x + factor * y for x, y in zip(a, b)]


def subtract_where_present(f, s, factor):
    "The published projection: tensors without a follower's gradient are skipped."
    return [None if x is None else x if y is None else x - factor * y for x, y in zip(f, s)]


def oracle(grads, permutation, exact: bool):
    "Asymmetric gradient projection (arXiv 2601.21288), line by line, on the gradients themselves."
    if exact: grads = [[torch.zeros(3, dtype=F64) if x is None else x for x in g] for g in grads]
    anchor, merged = grads[0], []
    for follower in grads[1:]:
        d = dot(follower, anchor)
        if d < 0: follower = subtract_where_present(follower, anchor, d / dot(anchor, anchor))
        merged.append(add(anchor, follower))
    total = [None] * len(anchor)
    for i in permutation:
        projected = merged[i]
        for j in permutation:
            d = dot(projected, merged[j])
            if j != i and d < 0: projected = subtract_where_present(projected, merged[j], d / dot(merged[j], merged[j]))
        total = add(total, projected)
    return total


def flat(grads):
    return torch.cat([torch.zeros(3, dtype=F64) if g is None else g for g in grads])


@pytest.mark.parametrize("seed", range(60))
def test_dense_gradients_match_the_line_by_line_oracle(seed):
    grads, order = as_tensors(rows(seed)), keyed_permutation(3, (seed, 1))
    expected = flat(oracle(grads, order, exact=True))
    for support in ("exact", "published"):
        combined, _ = resolve(grads, support=support, permutation=order)
        torch.testing.assert_close(flat(combined), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10**6), st.sets(st.tuples(st.integers(1, 3), st.integers(0, 7)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_missing_gradients_match_the_oracle_in_both_supports(seed, missing):
    grads, order = as_tensors(rows(seed), missing), keyed_permutation(3, (seed, 0))
    for support in ("exact", "published"):
        combined, _ = resolve(grads, support=support, permutation=order)
        torch.testing.assert_close(flat(combined), flat(oracle(grads, order, support == "exact")), rtol=1e-11, atol=1e-11)


def test_supports_differ_only_where_gradients_are_missing():
    dense, holes = as_tensors(rows(1)), as_tensors(rows(1), {(1, j) for j in range(2, 8)})
    differ = [(flat(resolve(g, support="exact")[0]) - flat(resolve(g, support="published")[0])).norm() for g in (dense, holes)]
    assert differ[0] < 1e-12 and differ[1] > 1e-2


def followers_after_stage_1(grads, support):
    "Projected followers alone, as full vectors."
    results = []
    for follower in range(1, len(grads)):
        pair = [grads[0], grads[follower]]
        merged, _ = resolve(pair, support=support, stage2="none")
        results.append(flat(merged) - flat(grads[0]))
    return results


@pytest.mark.parametrize("seed", range(20))
def test_after_stage_1_no_follower_opposes_the_anchor_even_without_gradients_somewhere(seed):
    missing = {(i, j) for i in (1, 2) for j in range(i, 8)}
    grads = as_tensors(rows(seed), missing)
    for follower in followers_after_stage_1(grads, "exact"):
        assert follower @ flat(grads[0]) >= -1e-12 * follower.norm() * flat(grads[0]).norm()


def test_published_support_leaves_followers_opposed_to_the_anchor():
    grads = [[torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)], [-torch.ones(3, dtype=F64), None]]
    exact, published = (followers_after_stage_1(grads, s)[0] @ flat(grads[0]) for s in ("exact", "published"))
    assert exact == pytest.approx(0) and published == pytest.approx(-1.5)


@pytest.mark.parametrize("seed", range(20))
def test_the_anchor_is_never_changed(seed):
    matrix = rows(seed)
    before = matrix.clone()
    weights, telemetry = agp_weights(matrix @ matrix.T, stage2="none")
    assert weights[1:].tolist() == [1, 1, 1] and weights[0] >= 3  # followers lose only multiples of the anchor
    assert torch.equal(matrix, before) and telemetry.cosines_stage1[0][0] == pytest.approx(1)


def test_gradients_without_conflict_pass_through():
    matrix = rows(3).abs()
    assert agp_weights(matrix @ matrix.T)[0].tolist() == [3, 1, 1, 1]
    assert agp_weights(matrix @ matrix.T, ce_count="once")[0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("active", [1, 2, 3])
def test_ce_counts_once_per_present_capability(active):
    terms = [name if i <= active else None for i, name in enumerate(TERMS)]
    weights, telemetry = agp_weights(torch.eye(4, dtype=F64), terms=terms)
    assert weights.tolist() == [active] + [1] * active + [0] * (3 - active) and len(telemetry.terms) == active + 1
    assert agp_weights(torch.eye(4, dtype=F64), terms=terms, ce_count="once")[0][0] == 1


def test_ce_alone_is_plain_training():
    for method in ("agp", "sum", "flat_pcgrad", "symmetric_stage1"):
        assert conflict_weights(method, torch.tensor([[4.0]]))[0].tolist() == [1]


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("dimension", [2, 3, 6])
def test_stage_2_never_fires_while_followers_are_no_longer_than_the_anchor(ratio, dimension):
    for seed in range(40):
        matrix = torch.nn.functional.normalize(torch.randn(4, dimension, generator=torch.Generator().manual_seed(seed), dtype=F64), dim=1)
        matrix[1:] *= ratio * (1 - 1e-9)
        assert not any(map(any, agp_weights(matrix @ matrix.T)[1].fired_stage2))


@given(st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_stage_2_fires_only_above_its_bound(seed):
    matrix = rows(seed, n=3)
    telemetry = agp_weights(matrix @ matrix.T, permutation=[0, 1, 2])[1]
    longest = sorted(telemetry.norms_stage1[1:])[-2:]
    if any(map(any, telemetry.fired_stage2)): assert longest[0] * longest[1] > telemetry.norms[0] ** 2


def test_stage_2_fires_for_long_opposed_followers():
    matrix = torch.tensor([[1., 0], [0, 2], [0, -2]], dtype=F64)
    assert agp_weights(matrix @ matrix.T)[1].fired_stage2 == [[False, True], [True, False]]


def test_worked_example_of_the_notebook():
    matrix = torch.tensor([[1., 0], [-1, 2], [0, -3]], dtype=F64)
    assert torch.allclose(agp_weights(matrix @ matrix.T)[0] @ matrix, torch.tensor([3.5, -.5], dtype=F64))


def test_permutations_repeat_with_their_key_and_ignore_the_global_generator():
    matrix = rows(11, n=3, scale=3)
    torch.manual_seed(1)
    first = [agp_weights(matrix @ matrix.T, key=(5, step)) for step in range(20)]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = [agp_weights(matrix @ matrix.T, key=(5, step)) for step in range(20)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again))
    assert len({tuple(t.permutation) for _, t in first}) == 6
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_a_permutation_of_other_length_is_refused():
    with pytest.raises(ValueError, match="permutation"): agp_weights(torch.eye(4), permutation=[0, 1])


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_weights_do_not_depend_on_a_common_scale(scale):
    matrix = rows(4)
    expected = agp_weights(matrix @ matrix.T)[0]
    assert torch.allclose(agp_weights((matrix * scale) @ (matrix * scale).T)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("scales", [(1e10, 1e-10, 1, 1), (1e-10, 1e10, 1e10, 1), (0, 1, 1, 1), (1, 0, 0, 0), (0, 0, 0, 0)])
def test_zero_and_extreme_gradients_stay_finite(scales):
    grads = as_tensors((rows(5) * torch.tensor(scales, dtype=F64)[:, None]).float())
    for options in (dict(), dict(stage1="symmetric"), dict(stage1="none"), dict(support="published")):
        combined, telemetry = resolve(grads, **options)
        assert all(g.isfinite().all() for g in combined)
        assert "NaN" not in json.dumps(telemetry.as_dict()) and "Infinity" not in json.dumps(telemetry.as_dict())


def test_merged_gradients_that_cancel_leave_finite_weights():
    anchor = rows(6)[0]
    matrix = torch.stack([anchor, -anchor, rows(7)[1], -anchor])
    assert agp_weights(matrix @ matrix.T, stage1="none")[0].abs().max() < 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradients_are_named(bad):
    grads = as_tensors(rows(0))
    grads[2][1] = torch.tensor([1.0, bad, 0.0], dtype=F64)
    with pytest.raises(ValueError, match="reasoning"): resolve(grads, terms=TERMS)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-8), (torch.bfloat16, 1e-7)])
def test_gram_equals_the_float64_product_of_what_it_was_given(dtype, tolerance):
    long = [torch.randn(40_000, generator=torch.Generator().manual_seed(i), dtype=F64).to(dtype) for i in range(3)]
    grads = [[row, torch.ones(3, 2, dtype=dtype) * i] for i, row in enumerate(long)]
    matrix = torch.stack([torch.cat([g.double().flatten() for g in row]) for row in grads])
    expected = matrix @ matrix.T
    assert ((gram(grads) - expected).abs() <= tolerance * expected.diagonal().sqrt().outer(expected.diagonal().sqrt())).all()


def test_support_gram_sorts_tensors_by_missing_gradients_and_reduces_once():
    grads, calls = as_tensors(rows(2), {(1, 5), (1, 6), (2, 6)}), []
    by_class = support_gram(grads, reduce=lambda sums: calls.append(sums.shape) or 2 * sums)
    assert len(by_class.grams) == 3 and len(calls) == 1
    assert by_class.classes[0] == by_class.classes[7] != by_class.classes[5] != by_class.classes[6]
    torch.testing.assert_close(by_class.total, 2 * gram(grads))


def test_a_parameter_without_any_gradient_stays_without():
    grads = [[torch.ones(2), None], [torch.ones(2), None]]
    combined, _ = resolve(grads)
    assert combined[1] is None and combined[0].tolist() == [2, 2]


def test_combine_rounds_bf16_once():
    grads = [[torch.full((1,), value, dtype=torch.bfloat16)] for value in (1.0, 2**-8, 2**-8)]
    (total,) = combine(grads, torch.ones(3, dtype=F64))
    assert total.dtype == torch.bfloat16 and total.item() == 1 + 2**-7  # each addition alone would be rounded away


def test_terms_of_different_length_are_refused():
    with pytest.raises(ValueError): resolve([[torch.ones(2)], [torch.ones(2), torch.ones(1)]])


def test_own_anchors_equal_the_oracle_of_each_pair():
    matrix = rows(8, k=6, n=12)
    terms = ("ce:a", "ce:b", "ce:c", "a", "b", "c")
    weights, telemetry = agp_weights(matrix @ matrix.T, terms=terms, anchor="own", stage2="none")
    expected = matrix.sum(0)
    for anchor, follower in zip(matrix[:3], matrix[3:]):
        if anchor @ follower < 0: expected = expected - (anchor @ follower) / (anchor @ anchor) * anchor
    torch.testing.assert_close(weights @ matrix, expected)
    assert telemetry.merged == ("a", "b", "c")


def test_own_anchors_count_ce_once_and_survive_missing_partners():
    eye = torch.eye(3, dtype=F64)
    assert agp_weights(eye, terms=("ce:a", "ce:b", "a"), anchor="own")[0].tolist() == [1, 1, 1]
    assert agp_weights(eye, terms=("ce:a", "a", "b"), anchor="own")[0].tolist() == [1, 1, 1]
    assert pair_rows(("ce:a", "a", "b"), "own") == {"a": (0, 1), "b": (None, 2)}


def pcgrad(matrix, order):
    "PCGrad over all rows with one order."
    total = torch.zeros_like(matrix[0])
    for i in order:
        row = matrix[i]
        for j in order:
            if i != j and row @ matrix[j] < 0: row = row - (row @ matrix[j]) / (matrix[j] @ matrix[j]) * matrix[j]
        total = total + row
    return total


@pytest.mark.parametrize("seed", range(10))
def test_flat_pcgrad_treats_ce_like_any_other(seed):
    matrix, order = rows(seed), keyed_permutation(4, (0, seed))
    weights, _ = conflict_weights("flat_pcgrad", matrix @ matrix.T, permutation=order)
    torch.testing.assert_close(weights @ matrix, pcgrad(matrix, order))


def test_symmetric_stage_1_projects_the_anchor_too():
    matrix = torch.tensor([[1., 0], [-1, 1]], dtype=F64)  # PCGrad of the pair: (.5, .5) + (0, 1)
    assert (conflict_weights("symmetric_stage1", matrix @ matrix.T)[0] @ matrix).tolist() == pytest.approx([.5, 1.5])


def test_sum_is_the_plain_sum_whatever_else_is_configured():
    matrix = rows(9)
    for options in (dict(), dict(ce_count="per_capability", stage1="asymmetric", stage2="symmetric")):
        assert conflict_weights("sum", matrix @ matrix.T, **options)[0].tolist() == [1, 1, 1, 1]


def available(name: str) -> str:
    "Skip where TorchJD's optional solvers are not installed."
    try: conflict_weights(name, torch.eye(2, dtype=F64))
    except ImportError as error: pytest.skip(str(error))
    return name


@pytest.mark.parametrize("name", "PCGrad UPGrad CAGrad AlignedMTL IMTLG MGDA GradVac DualProj FairGrad Mean Sum PCD".split())
def test_torchjd_weightings_work_flat_and_per_capability(name):
    method, matrix = available(f"torchjd:{name}"), rows(12)
    G = matrix @ matrix.T
    flat_weights, _ = conflict_weights(method, G)
    merged_weights, telemetry = agp_weights(G, stage2=method)
    assert flat_weights.shape == merged_weights.shape == (4,) and flat_weights.isfinite().all() and merged_weights.isfinite().all()
    assert torch.equal(flat_weights, conflict_weights(method, G)[0])  # draws are keyed
    assert telemetry.merged == ("1", "2", "3")


@pytest.mark.parametrize("name", "PCGrad UPGrad CAGrad AlignedMTL IMTLG MGDA GradVac".split())
def test_a_flat_weighting_gives_what_torchjds_own_aggregator_gives(name):
    from torchjd import aggregation
    method, matrix = available(f"torchjd:{name}"), rows(20)
    weights, _ = conflict_weights(method, matrix @ matrix.T, key=(0, 0))
    torch.manual_seed(int(np.random.default_rng([0, 0]).integers(2**62)))  # PCGrad and GradVac draw an order
    theirs = getattr(aggregation, name)(**{"CAGrad": {"c": 0.5}}.get(name, {}))(matrix)
    torch.testing.assert_close(weights @ matrix, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["ExcessMTL", "MoDo", "SDMGrad"])
def test_weightings_that_need_the_gradients_themselves_are_refused(name):
    with pytest.raises(ValueError, match="TorchJD weighting must be one of"): conflict_weights(f"torchjd:{name}", torch.eye(3))


def test_weights_that_are_no_numbers_are_refused():
    class Broken(Weighting):
        def forward(self, gramian, /): return torch.full((len(gramian),), float("nan"))
    with pytest.raises(ValueError, match="Weights must be finite; Broken"): conflict_weights(Broken(), torch.eye(3))


def test_torchjd_weighting_sees_our_gram_and_keeps_the_callers_random_state():
    from torchjd.aggregation import IMTLGWeighting
    matrix, state = rows(13), torch.get_rng_state()
    assert torch.equal(conflict_weights("torchjd:IMTLG", matrix @ matrix.T)[0], IMTLGWeighting()(matrix @ matrix.T))
    conflict_weights("torchjd:PCGrad", matrix @ matrix.T)
    assert torch.equal(state, torch.get_rng_state())


def test_a_weighting_with_state_keeps_it_between_steps():
    from torchjd.aggregation import GradVacWeighting
    matrix, weighting = rows(14), GradVacWeighting()
    first, second = (conflict_weights(weighting, matrix @ matrix.T, key=(0, 0))[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_unknown_words_are_refused():
    for options in (dict(stage1="x"), dict(stage2="x"), dict(anchor="x"), dict(ce_count="x")):
        with pytest.raises(ValueError, match="found 'x'"): agp_weights(torch.eye(3), **options)
        with pytest.raises(ValueError, match="found 'x'"): AGP(**options)
    with pytest.raises(ValueError, match="found 'x'"): AGP(support="x")
    with pytest.raises(ValueError, match="found 'x'"): conflict_weights("x", torch.eye(3))
    with pytest.raises(ValueError, match="PCGrad"): conflict_weights("torchjd:x", torch.eye(3))


def test_aggregator_is_weights_times_matrix_and_hooks_fire():
    matrix, seen = rows(15), []
    aggregator = AGP(seed=3)
    aggregator.weighting.register_forward_hook(lambda module, given, output: seen.append(output))
    aggregator.register_forward_pre_hook(lambda module, given: seen.append("called"))
    result = aggregator(matrix)
    assert seen[0] == "called" and torch.equal(result, seen[1] @ matrix)
    aggregator.reset()
    torch.testing.assert_close(aggregator.weighting(matrix @ matrix.T), seen[1])


def test_aggregator_keeps_type_and_input():
    matrix = rows(16).float().requires_grad_()
    result = AGP()(matrix)
    assert result.dtype == torch.float32 and not result.requires_grad
    with pytest.raises(ValueError): AGP()(torch.ones(3))


def test_aggregator_is_not_permutation_equivariant():
    matrix = torch.tensor([[1., 0], [-1, 2], [0, -3]], dtype=F64)
    assert not torch.allclose(AGP()(matrix), AGP()(matrix[[1, 0, 2]]))


def test_aggregator_repeats_after_reset_and_moves_on_without():
    matrix, aggregator = rows(17, n=3, scale=3), AGP(seed=1)
    first = [aggregator(matrix) for _ in range(8)]
    aggregator.reset()
    assert all(torch.equal(a, aggregator(matrix)) for a in first)
    assert len({tuple(a.tolist()) for a in first}) > 1


def test_aggregator_drops_absent_terms():
    aggregator = AGP(terms=("ce", "perception", None, "planning"))
    assert aggregator.weighting(torch.eye(4))[2] == 0 and aggregator.weighting.telemetry.terms == ("ce", "perception", "planning")


@pytest.mark.parametrize("optimized", [False, True])
def test_aggregator_drives_torchjd_autojac(optimized):
    from torchjd.autojac import backward, jac_to_grad
    matrix, parameter = rows(18).float(), torch.zeros(24, requires_grad=True)
    backward([row @ parameter for row in matrix], parallel_chunk_size=1)
    weights = jac_to_grad([parameter], AGP(), optimize_gramian_computation=optimized)
    torch.testing.assert_close(parameter.grad, weights.to(matrix) @ matrix)
    torch.testing.assert_close(parameter.grad, AGP()(matrix))


def test_telemetry_is_json_and_its_shares_sum_to_one():
    matrix = rows(19)
    for options in (dict(), dict(anchor="none"), dict(stage2="none")):
        telemetry = agp_weights(matrix @ matrix.T, terms=TERMS, **options)[1]
        assert isinstance(telemetry, Telemetry) and sum(telemetry.shares) == pytest.approx(1)
        assert telemetry.ce_share == pytest.approx(telemetry.shares[0])
        restored = json.loads(json.dumps(telemetry.as_dict()))
        assert restored["terms"] == list(TERMS) and restored["norms"] == pytest.approx(matrix.norm(dim=1).tolist())
        assert restored["norm_result"] == pytest.approx((torch.tensor(telemetry.weights, dtype=F64) @ matrix).norm().item())


def test_telemetry_shows_stage_1_removing_the_conflict():
    matrix = torch.tensor([[1., 0], [-1, 2], [0, -3]], dtype=F64)
    telemetry = agp_weights(matrix @ matrix.T)[1]
    assert telemetry.cosines[0][1] == pytest.approx(-1 / 5**.5) and telemetry.cosines_stage1[0][1] == pytest.approx(0)
    assert telemetry.fired_stage1 == [True, False]
