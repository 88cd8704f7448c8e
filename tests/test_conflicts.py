"A recorded step, replayed: the same end as the trainer's, exact planes, honest words where there is no story."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivekd.distill.agp import agp_weights, conflict_weights
from drivekd.distill.step import block_of
from drivekd.workbench.conflict_explorer import ConflictExplorer, conflict_summary
from drivekd.workbench.conflicts import STEPS, block_cosines, by_method, conflict_record, descents, moves, plane

TERMS = ("ce", "perception", "reasoning", "planning")


def gradients(seed, k=4, scale=1.0):
    return np.random.default_rng(seed).normal(size=(k, 5)) * np.geomspace(scale, 1, k)[:, None]


def row(seed, terms=TERMS, method="agp", scale=1.0, **options):
    J = gradients(seed, len(terms), scale)
    return {"step": 1} | conflict_weights(method, torch.tensor(J @ J.T), terms=terms, key=(seed, 0), **options)[1].as_dict(), J


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["per_capability", "once"]), st.sampled_from([1.0, 1e4]))
def test_a_replay_ends_at_the_recorded_weights(seed, ce_count, scale):
    recorded, _ = row(seed, ce_count=ce_count, scale=scale)
    story = moves(recorded)
    assert [m.stage for m in story] == [1] * 3 + [2] * 6
    assert [m.fired for m in story[:3]] == recorded["fired_stage1"]
    fired = {(m.who, m.against): m.fired for m in story[3:]}
    assert fired == {(f"ce + {a}", f"ce + {b}"): recorded["fired_stage2"][i][j]
                     for i, a in enumerate(TERMS[1:]) for j, b in enumerate(TERMS[1:]) if i != j}


@pytest.mark.parametrize("other", [dict(method="sum"), dict(method="flat_pcgrad"), dict(stage2="none"), dict(method="torchjd:PCGrad")])
def test_a_step_combined_otherwise_has_no_agp_story(other):
    recorded = next(r for r in (row(seed, **other)[0] for seed in range(20)) if any(c < 0 for c in np.ravel(r["cosines"])))
    assert moves(recorded) == [] or np.allclose(recorded["weights"], agp_weights(torch.tensor(recorded["gram"]), terms=TERMS, permutation=[0, 1, 2])[0])


def test_a_single_follower_has_one_meeting():
    assert [m.who for m in moves(row(3, ("ce", "planning"))[0])] == ["planning"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_plane_keeps_lengths_and_angles(seed):
    _, J = row(seed)
    a, b = np.eye(4)[0], np.eye(4)[1] + .3 * np.eye(4)[0]
    (x, y), (u, v), (p, q) = plane(J @ J.T, a, b, 2 * b - 3 * a)
    vectors = [c @ J for c in (a, b, 2 * b - 3 * a)]
    flat = [(x, y), (u, v), (p, q)]
    for c, d in ((0, 1), (1, 2), (0, 0), (2, 2)): assert np.dot(flat[c], flat[d]) == pytest.approx(vectors[c] @ vectors[d], abs=1e-8)


def test_a_vector_without_length_spans_no_plane_and_breaks_nothing():
    assert plane(np.zeros((2, 2)), (1, 0), (0, 1)) == [(0, 0), (0, 0)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_descents_are_first_order_changes_of_the_losses(seed):
    recorded, J = row(seed)
    combined = np.asarray(recorded["weights"]) @ J
    assert descents(recorded["gram"], recorded["weights"]) == pytest.approx((J @ combined / (J * J).sum(1)).tolist())


def test_a_loss_without_gradient_gains_nothing():
    assert descents([[4., 0.], [0., 0.]], [1., 1.]) == [1, 0]


def test_the_recorded_method_comes_out_as_it_was_recorded():
    recorded, _ = row(11)
    [choice] = by_method(recorded, ("agp",))
    assert choice.weights == pytest.approx(recorded["weights"]) and choice.norm == pytest.approx(recorded["norm_result"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="conflict must be one of"): by_method(row(1)[0], ("agpp",))


def test_blocks_know_where_a_gradient_is_missing():
    assert block_cosines({"gram_by_block": {"head": [[1., 0.], [0., 0.]]}}) == {"head": [[1.0, None], [None, None]]}


def test_a_long_record_is_thinned_and_says_so():
    record = conflict_record([row(1)[0] | {"step": s} for s in range(1, 2 * STEPS + 2)], methods=())
    assert len(record["steps"]) <= STEPS and record["recorded"] == 2 * STEPS + 1 and record["every"] == 3


def test_a_record_without_teachers_is_refused():
    with pytest.raises(ValueError, match="found none"): conflict_record([{"step": 1, "losses": {"ce": 1.}}])


@pytest.mark.parametrize("name, block", [("model.language_model.layers.11.post_attention_layernorm.weight", "layer 12 feed-forward"),
                                         ("base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight", "layer 1 attention"),
                                         ("model.visual.blocks.3.attn.qkv.weight", "vision"), ("lm_head.weight", "head")])
def test_parameters_belong_to_the_part_that_their_name_says(name, block):
    assert block_of(name) == block


# --- the page

FEW = ("agp", "sum")

@pytest.fixture(scope="module")
def record():
    rows = [row(seed)[0] | {"step": seed + 1, "gram_by_block": {"layer 1 <b>attention</b>": row(seed)[0]["gram"]}} for seed in range(40)]
    return [r for r in rows if r["step"] not in (11, 12, 13)]  # a gap


@pytest.fixture(scope="module")
def tab(browser, record, tmp_path_factory):
    "The explorer as a page in a browser without network; an error on its console fails the test that follows."
    path = tmp_path_factory.mktemp("page") / "conflicts.html"
    ConflictExplorer(record, FEW).to_html(path)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.errors, page.asked = [], []
    page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("request", lambda r: page.asked.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(path.as_uri())
    page.wait_for_selector(".dkc svg")
    page.view = lambda code: page.evaluate(f"(() => {{ const x = document.getElementById('dk-host').explorer; return {code}; }})()")
    return page


def test_the_page_opens_without_network_and_without_errors(tab):
    assert tab.errors == [] and tab.asked == []
    assert tab.locator(".dkc section").count() == 6


def test_words_of_a_record_are_shown_as_they_are(tab):
    assert tab.locator("svg text", has_text="layer 1 <b>attention</b>").count() == 1 and tab.locator(".dkc b").count() == 0


def test_a_pair_is_chosen_in_the_matrix_by_keyboard(tab):
    tab.locator("g[role=button][tabindex='0']", has=tab.locator("rect")).nth(2).focus()
    tab.keyboard.press("Enter")
    assert tab.view("x.state.pair") == ["ce", "planning"]
    assert tab.locator("svg text", has_text="ce · planning: fired in").count() == 1


def test_the_slider_goes_through_the_steps_and_says_where_it_is(tab):
    tab.view("x.go(0)")
    tab.locator("input[type=range]").focus()
    tab.keyboard.press("ArrowRight")
    assert "Step 2:" in tab.locator(".live").inner_text() and tab.view("x.state.at") == 1


def test_a_gap_of_the_record_is_a_gap_of_the_curve(tab):
    paths = tab.locator("svg").first.locator("path").evaluate_all("nodes => nodes.map(n => (n.getAttribute('d').match(/M/g) || []).length)")
    assert set(paths[:3]) == {2}


def test_a_tip_moves_by_keyboard_and_the_numbers_follow(tab):
    tip = tab.locator("circle[role=slider]").nth(1)
    before = tip.get_attribute("aria-valuetext")
    tip.focus()
    tab.keyboard.press("ArrowUp")
    after = tab.locator("circle[role=slider]").nth(1).get_attribute("aria-valuetext")
    assert before != after and tab.evaluate("document.activeElement.dataset.arm") == "1"


def test_the_browser_projects_as_the_library_does(tab):
    for seed in range(12):
        J = gradients(seed, 3)[:, :2]
        weights, _ = agp_weights(torch.tensor(J @ J.T), permutation=[0, 1])
        found = tab.view(f"x.agp({J[0].tolist()}, {J[1:].tolist()}, [0, 1]).result")
        assert found == pytest.approx((weights.numpy() @ J).tolist(), rel=1e-9, abs=1e-9)


def test_another_step_is_drawn_within_50_ms(tab):
    "Of the page's own thread: what else runs on this machine is not its fault."
    clock = tab.context.new_cdp_session(tab)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
    spent = lambda: 1000 * next(m["value"] for m in clock.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")
    before = spent()
    tab.view("Array.from({length: 9}, (_, i) => { x.go(5 + i); return document.body.getBoundingClientRect().width; })")
    assert (spent() - before) / 9 < 50


def test_the_picture_is_a_png_with_something_on_it(tab):
    shades = tab.evaluate("document.getElementById('dk-host').explorer.picture().then(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)")
    assert shades > 40


def test_a_record_opens_at_the_step_and_pair_that_were_asked_for(record):
    explorer = ConflictExplorer(record, FEW, step=7, pair=("perception", "planning"))
    assert explorer.view == {"step": 7, "pair": ["perception", "planning"]}
    with pytest.raises(ValueError, match="no step 12"): ConflictExplorer(record, FEW, step=12)
    with pytest.raises(ValueError, match="no pair"): ConflictExplorer(record, FEW, pair=("ce", "braking"))


def test_an_executed_notebook_keeps_a_picture_and_a_summary(record):
    shown = ConflictExplorer(record, FEW).static()._repr_html_()
    assert 'sandbox="allow-scripts"' in shown and "37 steps" in shown and "<script" not in shown and "<img" in shown


def test_a_flat_method_gives_way_to_ce_in_its_only_stage():
    flat = next(r for r in (row(seed, method="flat_pcgrad")[0] for seed in range(50)) if any(r["fired_stage2"][i][r["merged"].index("ce")] for i in range(4)))
    given = {n for i, n in enumerate(flat["merged"]) if n != "ce" and flat["fired_stage2"][i][flat["merged"].index("ce")]}
    said = conflict_summary({"recorded": 1, "terms": TERMS, "steps": [flat]})
    assert given and all(f"{n} gave way to CE in {int(n in given)} of 1 steps" in said for n in TERMS[1:])


def test_an_explorer_that_a_notebook_cannot_keep_is_refused(record):
    with pytest.raises(ValueError, match="keep fewer `steps`"): ConflictExplorer(record, FEW).static(limit=30_000)
