"Claims about capabilities, layers, mixing and recipes (arXiv 2601.21288, table 3)."
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivekd.distill import capabilities as cap
from drivekd.distill.capabilities import Capability, Recipe, Signal, layer_groups, layer_indices, term_weights, with_options
from drivekd.distill.objective import shares, static_weights

TABLE_3 = """ce kl hidden_first hidden_mid hidden_penultimate full_first full_penultimate tv_mid tv_interior
cosine_perception cosine_reasoning cosine_planning single_perception single_reasoning single_planning
multi_sum flat_pcgrad symmetric_stage1 agp""".split()


def test_every_row_of_table_3_is_a_preset():
    assert list(cap.PRESETS) == TABLE_3
    assert {name for names in cap.TABLE_3.values() for name in names} == set(TABLE_3)
    assert all(recipe.name == name for name, recipe in cap.PRESETS.items())


@pytest.mark.parametrize("name, what, layers, region, distance", [
    ("hidden_first", "hidden", (0,), "full", "mse"), ("hidden_penultimate", "hidden", (22,), "full", "mse"),
    ("full_first", "attention", (0,), "full", "mse"), ("full_penultimate", "attention", (22,), "full", "mse"),
    ("tv_mid", "attention", tuple(range(23)), "text_to_vision", "mse"),
    ("tv_interior", "attention", tuple(range(1, 22)), "text_to_vision", "mse"),
    ("cosine_reasoning", "attention", tuple(range(23)), "full", "cosine"),
    ("single_planning", "attention", (22,), "text_to_vision", "mse"),
])
def test_preset_copies_the_signal_of_its_row(name, what, layers, region, distance):
    (only,) = cap.PRESETS[name].capabilities
    signal = only.signal
    assert (signal.what, layer_indices(signal.layers, 24), signal.region, signal.distance) == (what, layers, region, distance)
    assert cap.PRESETS[name].train_on == (only.name,)


def test_multi_teacher_presets_differ_in_conflict_handling_alone():
    multi = [cap.PRESETS[name] for name in ("multi_sum", "flat_pcgrad", "symmetric_stage1", "agp")]
    assert {r.conflict for r in multi} == {"sum", "flat_pcgrad", "symmetric_stage1", "agp"}
    assert len({(r.capabilities, r.mixing, r.ce_weight, r.freeze) for r in multi}) == 1


def test_intermediate_layers_include_both_ends_and_interior_neither():
    assert layer_indices("intermediate", 28) == tuple(range(27))
    assert layer_indices("interior", 28) == tuple(range(1, 26))
    assert layer_indices("penultimate", 28) == (26,)


@pytest.mark.parametrize("layers, n", [
    ("penultimate", 1), ("intermediate", 1), ("interior", 3), ((4,), 4), ((-5,), 4), ((1, 1), 4), ("second", 4)])
def test_layers_a_model_lacks_are_refused(layers, n):
    with pytest.raises(ValueError):
        layer_indices(layers, n)


def published_groups(k: int, m: int) -> list[tuple[int, ...]]:
    "The published layer-group matching, word by word."
    g = max(1, m - k + 1)
    return [tuple(range(min(i, m - g), min(i, m - g) + g)) for i in range(k)]


@given(k=st.integers(1, 40), m=st.integers(1, 70))
def test_sliding_groups_follow_the_published_rule(k, m):
    assert list(layer_groups(range(k), range(m))) == published_groups(k, m)


@given(k=st.integers(1, 40), m=st.integers(1, 70))
def test_every_match_gives_each_student_layer_teacher_layers_in_order(k, m):
    for match in cap.MATCHES:
        groups = layer_groups(range(k), range(100, 100 + m), match)
        assert len(groups) == k and all(groups) and all(100 <= t < 100 + m for group in groups for t in group)
        assert [g[0] for g in groups] == sorted(g[0] for g in groups)


@given(k=st.integers(1, 40), extra=st.integers(0, 30))
def test_even_groups_cut_a_deeper_teacher_into_disjoint_shares(k, extra):
    groups = layer_groups(range(k), range(k + extra), "even")
    assert [t for group in groups for t in group] == list(range(k + extra))
    assert all(single[0] in group for single, group in zip(layer_groups(range(k), range(k + extra), "one_to_one"), groups))


def test_custom_groups_need_one_per_student_layer_within_the_teacher():
    signal = Signal(layers=(0, 1), match=[[0, 2], [3]])
    assert cap.layer_plan(signal, 4, 6) == ((0, (0, 2)), (1, (3,)))
    with pytest.raises(ValueError, match="one non-empty group"): layer_groups(range(3), range(6), ((0,), (1,)))
    with pytest.raises(ValueError, match="0 … 2"): cap.layer_plan(signal, 4, 3)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=4))
def test_mixing_rows_sum_to_one_without_negatives(rows):
    if any(not any(x > 0 for x in row) for row in rows):
        with pytest.raises(ValueError): cap.mixing_matrix(rows)
    else:
        for given_row, row in zip(rows, cap.mixing_matrix(rows)):
            assert sum(row) == pytest.approx(1) and all(x >= 0 for x in row)
            assert all(x == 0 for g, x in zip(given_row, row) if g <= 0)


def test_default_mixing_keeps_four_fifths_and_identity_routes():
    assert cap.named_mixing("default", 3) == ((.8, .1, .1), (.1, .8, .1), (.1, .1, .8))
    assert cap.named_mixing("identity", 2) == ((1, 0), (0, 1))
    assert cap.named_mixing("default", 1) == ((1.0,),)


@pytest.mark.parametrize("name", cap.PRESETS)
def test_term_weights_are_what_training_uses(name):
    "Shares of a sample times the weights before any reweighting; terms that nothing enters are left out there."
    recipe = with_options(name, ce_weight=.5)
    static = static_weights(recipe)
    for capability in recipe.terms[1:] or (None,):
        used = {term: share[0] * static[term.split(":")[0]] for term, share in shares(recipe, [capability]).items()}
        said = {"ce" if term.startswith("ce") else term: w for term, w in used.items()}
        assert said == pytest.approx({term: w for term, w in term_weights(recipe, capability).items() if w})


def test_term_weights_are_mixing_times_capability_weight():
    recipe = with_options("agp", weights={"perception": 50, "planning": 2}, ce_weight=.5)
    assert term_weights(recipe, "perception") == pytest.approx({"ce": .5, "perception": 40, "reasoning": .1, "planning": .2})
    assert tuple(term_weights(recipe, "planning")) == recipe.terms


def test_unknown_capability_of_a_sample_is_refused_unless_nothing_depends_on_it():
    assert term_weights(cap.PRESETS["ce"], None) == {"ce": 1.0}
    with pytest.raises(ValueError, match="train_on"): term_weights(cap.PRESETS["agp"], "prediction")


@pytest.mark.parametrize("make", [
    lambda: Signal(what="attn"), lambda: Signal(layers=()), lambda: Signal(distance="kl"), lambda: Signal(what="hidden"),
    lambda: Signal(what="logits", region="full", distance="mse"), lambda: Signal(temperature=0), lambda: Signal(match="slide"),
    lambda: Signal(denominator="all"), lambda: Capability("ce", Signal()), lambda: Capability("a:b", Signal()),
    lambda: Capability("x", Signal(), weight=-1), lambda: Capability("x", Signal(), weight=float("nan")),
    lambda: Recipe("r", conflict="pcgrad"), lambda: Recipe("r", stage2="asymmetric"), lambda: Recipe("r", support="compat"),
    lambda: Recipe("r", ce_weight=0), lambda: Recipe("r", (Capability("x", Signal()),) * 2),
    lambda: Recipe("r", cap.DRIVING, mixing=((1, 0), (0, 1))), lambda: Recipe("r", cap.DRIVING, mixing="none"),
])
def test_contradictions_are_refused_when_written_down(make):
    with pytest.raises(ValueError, match="found|trains nothing"):
        make()


@pytest.mark.parametrize("option, values", [
    *cap.OPTIONS.items(), ("conflict", (*cap.CONFLICTS, "torchjd:UPGrad")), ("stage2", (*cap.STAGE2, "torchjd:MGDA"))])
def test_every_option_is_reachable_from_a_preset(option, values):
    assert [getattr(with_options("agp", **{option: value}), option) for value in values] == list(values)


def test_signal_options_reach_every_capability():
    recipe = with_options("agp", denominator="published", match="even")
    assert {(c.signal.denominator, c.signal.match) for c in recipe.capabilities} == {("published", "even")}
    assert cap.PRESETS["agp"].capabilities[0].signal.denominator == "causal"


@pytest.mark.parametrize("name", TABLE_3)
def test_recipes_survive_yaml(name):
    recipe = with_options(name, mixing=cap.PRESETS[name].mixing, norm_ratio=.5, conflict_options={"c": .4})
    assert cap.make_recipe(yaml.safe_load(yaml.safe_dump(cap.to_dict(recipe)))) == recipe


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="stage_1"): cap.make_recipe({"preset": "agp", "stage_1": "none"})
    with pytest.raises(ValueError, match="colour"): cap.from_dict({"name": "x", "colour": "red"})
    with pytest.raises(ValueError, match="'agp'"): cap.make_recipe("app")


def test_only_keeps_one_capability_with_its_share_of_a_custom_matrix():
    recipe = with_options("agp", mixing=((.5, .3, .2), (0, 1, 0), (.2, .2, .6)))
    pair = cap.only(recipe, "perception", "planning")
    assert pair.terms == ("ce", "perception", "planning") and pair.train_on == ("perception", "planning")
    assert cap.mixing_rows(pair)["perception"] == pytest.approx((.5 / .7, .2 / .7))
    with pytest.raises(ValueError, match="parking"): cap.only("kl", "parking")


def test_another_domain_is_another_list():
    kitchen = Recipe("kitchen", (Capability("grasp", Signal()), Capability("pour", Signal(layers="mid", region="full"))))
    assert term_weights(kitchen, "pour") == pytest.approx({"ce": 1, "grasp": .2, "pour": .8})
