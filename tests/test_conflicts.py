"A recorded step, replayed: the same end as the trainer's, exact planes, honest words where there is no story."
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivekd.distill.agp import agp_weights, conflict_weights
from drivekd.distill.step import block_of
from drivekd.workbench import pages as P
from drivekd.workbench.conflict_explorer import ConflictExplorer, conflict_picture, conflict_summary
from drivekd.workbench.conflicts import STEPS, block_cosines, by_method, conflict_record, descents, leading_plane, meet, moves, plane
from drivekd.workbench.figures import term_colours

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


@pytest.mark.parametrize("options", [dict(ce_count="per_capability"), dict(ce_count="once"), dict(stage1="symmetric"), dict(stage2="none"), dict(method="flat_pcgrad"), dict(method="sum")], ids=str)
def test_the_recorded_method_comes_out_as_it_was_recorded(options):
    recorded, _ = row(11, **options)
    [shown, *_] = conflict_record([recorded])["steps"][0]["methods"]
    assert shown["method"] == "recorded" and shown["weights"] == pytest.approx(recorded["weights"]) and shown["norm"] == pytest.approx(recorded["norm_result"])


def test_agp_with_the_settings_of_the_run_repeats_its_order():
    recorded, _ = row(11)
    assert by_method(recorded, ("agp",))[0].weights == pytest.approx(recorded["weights"])


def test_weights_that_differ_between_parameters_are_no_row_of_weights():
    [choice] = by_method(row(11)[0] | {"weights": [[1.] * 4, [2.] * 4]}, ("recorded",))
    assert choice.weights == () and "different weights" in choice.reason


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1., 1., -.1, .1, -3., 0.]), min_size=2, max_size=4), st.integers(0, 10_000), st.booleans())
def test_gradients_that_cancel_are_met_without_a_complex_number(lengths, seed, ce):
    "CE without a gradient, followers along one line: merged gradients vanish up to rounding error."
    direction = np.random.default_rng(seed).normal(size=7)
    J, names = np.outer([float(ce), *lengths], direction), ("ce", *map(str, range(len(lengths))))
    recorded = {"step": 1} | conflict_weights("agp", torch.tensor(J @ J.T), terms=names, key=(seed, 0))[1].as_dict()
    for move in moves(recorded):
        assert isinstance(move.cosine, float) and isinstance(move.kept, float) and abs(move.cosine) <= 1 and 0 <= move.kept <= 1


def test_a_square_below_zero_by_rounding_is_a_length_of_zero():
    gram = [[1., -1. - 1e-15], [-1. - 1e-15, 1.]]
    assert meet(gram, 2, ("a", (1., 1.)), ("b", (0., 1.))).cosine == 0 and plane(gram, (1, 1), (0, 1))[0] == (0, 0)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="conflict must be one of"): by_method(row(1)[0], ("agpp",))


def test_a_method_that_cannot_combine_two_gradients_says_so_and_the_others_go_on():
    krum, total = by_method(row(1, ("ce", "planning"))[0], ("torchjd:Krum", "sum"))
    assert krum.reason.startswith("cannot combine 2 gradients: ") and krum.weights == () and total.weights == (1, 1) and total.reason == ""
    assert by_method(row(1)[0], ("torchjd:Krum",))[0].reason == ""
    with pytest.raises(ValueError, match="TorchJD weighting must be one of"): by_method(row(1)[0], ("torchjd:Krumm",))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
def test_the_leading_plane_is_that_of_the_singular_vectors_of_the_gradients(seed, k, unit):
    J = gradients(seed, k, 10.0)
    if unit: J /= np.linalg.norm(J, axis=1, keepdims=True)
    found, (U, S, _) = leading_plane(J @ J.T, unit), np.linalg.svd(J, full_matrices=False)
    points = U[:, :2] * S[:2]
    assert np.abs(found.points) == pytest.approx(np.abs(points), abs=1e-7) and np.array(found.points) @ np.array(found.points).T == pytest.approx(points @ points.T, abs=1e-7)
    assert found.explained == pytest.approx((S[:2] ** 2).sum() / (S ** 2).sum()) and found.each == pytest.approx((points ** 2).sum(1) / (J ** 2).sum(1))


def test_the_leading_plane_has_nothing_to_say_about_what_has_no_length():
    assert leading_plane(np.zeros((3, 3))).explained is None
    for unit in (False, True): assert leading_plane([[4., 0.], [0., 0.]], unit).each == (1.0, None)


def test_blocks_know_where_a_gradient_is_missing():
    assert block_cosines({"gram_by_block": {"head": [[1., 0.], [0., 0.]]}}) == {"head": [[1.0, None], [None, None]]}


def test_a_long_record_is_thinned_and_says_so():
    record = conflict_record([row(1)[0] | {"step": s} for s in range(1, 2 * STEPS + 2)], methods=())
    assert len(record["steps"]) <= STEPS and record["recorded"] == 2 * STEPS + 1 and record["every"] == 3


def test_a_record_without_teachers_is_refused():
    with pytest.raises(ValueError, match="found none"): conflict_record([{"step": 1, "losses": {"ce": 1.}}])


@pytest.mark.parametrize("field, value", [("gram", None), ("gram", [[1.]]), ("gram", np.full((4, 4), float("nan")).tolist()), ("gram", np.full((4, 4), 10**400, object).tolist()), ("gram", (-np.eye(4)).tolist()), ("permutation", [0, 0, 1]),
                                          ("permutation", None), ("merged", 3), ("merged", ["planning", "planning", "x"]), ("weights", [1, 2]), ("weights", "1"), ("fired_stage1", [True]), ("fired_stage2", None), ("losses", [1]), ("losses", {"ce": float("nan")}),
                                          ("norms", None), ("cosines", [[None] * 4] * 4), ("gram_by_block", {"head": [[1.]]}), ("terms", ["ce", "ce", "planning", "x"])])
def test_a_row_that_cannot_be_replayed_is_refused_in_one_sentence(field, value):
    with pytest.raises(ValueError, match=rf"^Step 7: `{field}` must .*, found .*; take telemetry.jsonl as the trainer wrote it\.$"): conflict_record([row(1)[0] | {"step": 7, field: value}], ("agp",))


@pytest.mark.parametrize("field", ["gram", "permutation", "merged", "weights", "fired_stage1", "fired_stage2"])
def test_a_row_without_a_needed_field_is_refused_in_one_sentence(field):
    with pytest.raises(ValueError, match=f"Step 7: `{field}` must be there"): conflict_record([{k: v for k, v in row(1)[0].items() if k != field} | {"step": 7}])


@pytest.mark.parametrize("rows", ["telemetry.jsonl", 3, [1], None])
def test_what_is_no_list_of_rows_is_refused(rows):
    with pytest.raises(ValueError, match="read_log"): conflict_record(rows)


@pytest.mark.parametrize("step", [None, "1", 10**400, -1, True])
def test_a_row_without_the_number_of_its_step_is_refused(step):
    with pytest.raises(ValueError, match="number of its step"): conflict_record([row(1)[0] | {"step": step}])


def test_optional_fields_may_be_missing():
    optional = ("cosines", "cosines_stage1", "cosines_merged", "cosines_stage2", "norms", "norms_stage1", "norm_result", "shares", "ce_share")
    assert len(conflict_record([{k: v for k, v in row(1)[0].items() if k not in optional}], ("recorded",))["steps"][0]["moves"]) == 9


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
def tab(browser, watch, record, tmp_path_factory):
    "The explorer as a page in a browser without network."
    path = tmp_path_factory.mktemp("page") / "conflicts.html"
    ConflictExplorer(record, FEW).to_html(path)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.wrong = watch(page, [])
    page.goto(path.as_uri())
    page.wait_for_selector(".dkc svg")
    page.view = lambda code: page.evaluate(f"(() => {{ const x = document.getElementById('dk-host').explorer; return {code}; }})()")
    return page


@pytest.fixture(autouse=True)
def nothing_wrong(request):
    "After each test that used the page, nothing has gone wrong in it; what has counts for this test alone."
    yield
    if "tab" not in request.fixturenames: return
    listed = request.getfixturevalue("tab").wrong
    wrong, listed[:] = [*listed], []
    assert wrong == []


def test_the_page_opens_with_all_its_sections(tab):
    assert tab.locator(".dkc section").count() == 7


def test_words_of_a_record_are_shown_as_they_are(tab):
    assert tab.locator("svg text", has_text="layer 1 <b>attention</b>").count() == 1 and tab.locator(".dkc b").count() == 0


def test_a_pair_is_chosen_in_the_matrix_by_keyboard(tab):
    tab.locator("[data-focus='raw, as they come ce planning']").focus()
    tab.keyboard.press("Enter")
    assert tab.view("x.state.pair") == ["ce", "planning"]
    assert tab.locator("svg text", has_text="ce · planning: fired in").count() == 1


def test_the_slider_goes_through_the_steps_and_says_where_it_is(tab):
    tab.view("x.go(0)")
    tab.locator("input[type=range]").focus()
    tab.keyboard.press("ArrowRight")
    assert "Step 2:" in tab.locator(".live").inner_text() and tab.view("x.state.at") == 1


def test_a_gap_of_the_record_is_a_gap_of_the_curve_and_of_the_picture(tab, record):
    paths = tab.locator("svg").first.locator("path").evaluate_all("nodes => nodes.map(n => (n.getAttribute('d').match(/M/g) || []).length)")
    assert set(paths[:3]) == {2}
    drawn = np.asarray(conflict_picture(conflict_record(record, ())))[22:-22].astype(int)
    coloured = [(np.ptp(drawn[:, round(640 * (step - 1) / 39)], axis=-1) > 60).any() for step in (9, 11.5, 12.5, 15)]
    assert coloured == [True, False, False, True]


def test_enter_on_a_cell_or_on_a_meeting_keeps_the_focus_there(tab):
    focus = "document.activeElement.dataset.focus"
    for place in ("merged with CE perception planning", "raw, as they come ce reasoning", "move ce + planning ce + perception"):
        tab.locator(f"[data-focus='{place}']").focus()
        tab.keyboard.press("Enter")
        assert tab.evaluate(focus) == place
    assert tab.view("x.steps[x.state.at].moves[x.state.move]")["who"] == "ce + planning" and tab.view("x.state.pair") == ["ce", "reasoning"]


def test_meetings_keep_their_places_and_the_chosen_one_while_steps_go_by(tab, record):
    assert len({json.dumps(r["permutation"]) for r in record[:8]}) > 1
    tab.view("x.go(0)"), tab.locator("[data-focus='move ce + planning ce + perception']").click()
    seen = []
    for _ in range(8):
        seen.append((tab.locator(".moves button[data-focus^=move]").evaluate_all("all => all.map(b => b.dataset.focus)"), tab.get_attribute(".moves button[aria-pressed=true]", "data-focus")))
        tab.keyboard.press("ArrowRight")
    assert len(seen[0][0]) == 9 and all(s == seen[0] for s in seen) and seen[0][1] == "move ce + planning ce + perception"


def test_a_page_opens_at_the_middle_recorded_step_and_says_what_a_method_counts(browser, watch, record, tmp_path):
    page = browser.new_page()
    wrong = watch(page, [])
    page.goto(ConflictExplorer(record, FEW).to_html(tmp_path / "x.html").as_uri())
    page.wait_for_selector(".dkc svg")
    assert f"Step {record[len(record) // 2]['step']}:" in page.inner_text(".live") and "AGP counts CE once for each capability, the plain sum once" in page.inner_text(".dkc")
    columns = page.locator(".column").evaluate_all("both => both.map(c => c.lastElementChild.getBoundingClientRect().bottom)")
    page.close()
    assert wrong == [] and columns[0] == pytest.approx(columns[1], abs=1)


def test_teachers_are_compared_raw_and_merged_and_each_line_says_which_it_is(tab, record):
    tab.view("(x.state.pair = ['perception', 'planning'], x.go(4))")
    lines = tab.locator("text.line").all_text_contents()
    step = next(r for r in record if r["step"] == 5)
    assert [line.rsplit(" ", 1)[0] for line in lines] == ["raw, as they come", "raw, after stage 1", "merged with CE, before stage 2", "merged with CE, after stage 2"]
    assert [float(line.rsplit(" ", 1)[1].replace("−", "-")) for line in lines] == pytest.approx([step["cosines"][1][3], step["cosines_stage1"][1][3], step["cosines_merged"][0][2], step["cosines_stage2"][0][2]], abs=.006)
    tab.view("(x.kept = x.steps.map(s => s.cosines), x.steps.forEach(s => { delete s.cosines; }), x.paint())")
    assert "raw, as they come: not in this recording" in tab.locator("text.line").all_text_contents()
    tab.view("(x.steps.forEach((s, i) => { s.cosines = x.kept[i]; }), x.paint())")


def test_all_gradients_stand_in_one_plane_that_says_how_much_it_holds(tab, record):
    tab.view("x.go(4)")
    found = leading_plane(next(r for r in record if r["step"] == 5)["gram"])
    assert tab.locator(".held").inner_text().startswith(f"{100 * found.explained:.1f}\u202f% of their squared length lies in this plane (ce ")
    tab.locator("[data-focus='arrow planning']").focus()
    assert tab.locator(".held").inner_text().startswith("planning: length ") and f"{100 * found.each[3]:.1f}\u202f% of its squared length" in tab.locator(".held").inner_text()
    tab.keyboard.press("v")
    assert tab.evaluate("document.activeElement.dataset.focus") == "arrow planning" and tab.locator(".held").inner_text().startswith("planning: length ")
    tab.evaluate("document.activeElement.blur()")
    assert "All count as equally long" in tab.locator(".held").inner_text()
    ends = tab.view("[...x.shadow.querySelectorAll('g')].map(g => { const l = g.querySelectorAll('line')[1]; return [l.getAttribute('x2') - l.getAttribute('x1'), l.getAttribute('y1') - l.getAttribute('y2')]; })")
    assert np.array(ends) / 108 == pytest.approx(np.array(leading_plane(next(r for r in record if r["step"] == 5)["gram"], unit=True).points), abs=1e-6)
    tab.keyboard.press("v")


def test_a_length_that_is_not_to_scale_is_not_called_exact(tab):
    tab.view("(x.state.move = 0, x.go(0))")
    exact = tab.view("x.exact.textContent")
    tab.view("(x.steps[0].gram = x.steps[0].gram.map((r, i) => r.map((v, j) => v * (i ? 1 : 1.3e6) * (j ? 1 : 1.3e6))), x.paint())")
    far = tab.view("x.exact.textContent")
    assert "lengths are exact" in exact and "not to scale" in far and "lengths are exact" not in far and "e+" not in far


def test_long_drags_clip_no_label(tab):
    for arms in ("[[2.8,0],[2.7,.5],[2.6,.9]]", "[[0,2.8],[.4,2.7],[-.4,2.7]]", "[[-2.8,0],[-2.7,-.6],[-2.7,-.5]]", "[[.2,-2.7],[0,-2.8],[.3,-2.6]]"):
        tab.view(f"(x.arms = {arms}, x.drawHand())")
        boxes = tab.locator("svg.drag text").evaluate_all("nodes => nodes.map(n => { const b = n.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; })")
        assert len(boxes) == 11 and all(b[0] >= 0 and b[1] >= 0 and b[2] <= 1000 and b[3] <= 330 for b in boxes), arms
        tips = tab.locator("svg.drag polygon").evaluate_all("nodes => nodes.map(n => { const b = n.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; })")
        assert all(b[0] >= 0 and b[1] >= 20 and b[2] <= 1000 and b[3] <= 310 for b in tips), arms


def test_a_capability_has_one_colour_in_all_views(tab):
    tab.view("(x.state.pair = ['ce', 'planning'], x.choosePairMove(), x.paint(), x.drawHand())")
    for name, colour in term_colours(("ce", "perception", "planning")).items():
        rgb = "rgb({}, {}, {})".format(*(int(colour[i:i + 2], 16) for i in (1, 3, 5)))
        fills = tab.locator("svg text").evaluate_all("(nodes, name) => nodes.filter(n => n.textContent === name).map(n => getComputedStyle(n).fill)", name)
        assert set(fills) == {rgb} and len(fills) >= 8, name


def test_steps_stand_under_the_timelines_where_they_are(tab, record):
    tab.view("(x.state.pair = ['ce', 'planning'], x.go(0))")
    marks = tab.locator("text.tick").evaluate_all("nodes => nodes.map(n => [Number(n.textContent), Number(n.getAttribute('x')), n.getBBox().y + n.getBBox().height <= x(n)])".replace("x(n)", "n.ownerSVGElement.viewBox.baseVal.height"))
    ends, wide = (record[0]["step"], record[-1]["step"]), tab.view("x.wide")
    assert len(marks) > 4 and all(inside for *_, inside in marks)
    for step, at, _ in marks: assert at == pytest.approx(46 + (step - ends[0]) / (ends[1] - ends[0]) * (wide - 64))


def test_a_record_of_one_step_has_one_mark(browser, watch, record, tmp_path):
    page = browser.new_page()
    wrong = watch(page, [])
    page.goto(ConflictExplorer(record[4:5], FEW).to_html(tmp_path / "x.html").as_uri())
    page.wait_for_selector(".dkc svg")
    assert page.locator("text.tick").all_text_contents() == ["5"]
    page.close()
    assert wrong == []


def test_methods_are_coloured_by_the_loss_and_red_where_it_rises(tab):
    tab.view("x.go(4)")
    inks, red = tab.view("[...x.inks.values()]"), "#c0504d"
    methods = tab.view("x.steps[x.state.at].methods.map(m => m.descents)")
    cells = tab.view("[...x.table.querySelectorAll('rect')].map(r => [r.getAttribute('fill'), Number(r.getAttribute('fill-opacity'))])")
    shown = [(ink, d) for descents in methods for ink, d in zip(inks, descents, strict=True)]
    assert len(shown) == 8 and any(d < 0 for _, d in shown) and any(d > 0 for _, d in shown)
    for (fill, much), (ink, d) in zip(cells, shown): assert fill == (red if d < 0 else ink) and much == pytest.approx(min(1, abs(d)) / 2, abs=.006)
    assert [fill for fill, _ in cells[8:]] == [*inks, red] and tab.locator("text.legend").all_text_contents() == ["this loss falls, full colour from 1 on", "it rises, full colour from \u22121 on"]


def test_every_key_of_the_list_does_something(tab):
    assert len(P.source("conflicts").split("const KEYS")[1].split("];\n")[0].split("], [")) == 8
    tab.view("x.go(0)"), tab.evaluate("document.activeElement.blur()")
    for key, found, value in (("ArrowRight", "x.state.at", 1), ("End", "x.state.at", 36), ("ArrowLeft", "x.state.at", 35), ("Home", "x.state.at", 0), ("v", "x.state.plane", "directions"), ("v", "x.state.plane", "lengths")):
        tab.keyboard.press(key)
        assert tab.view(found) == value, key
    before = tab.view("x.state.pair")
    tab.keyboard.press("n"), tab.keyboard.press("?")
    assert tab.view("x.state.pair") != before and tab.is_visible("text=this list")
    tab.keyboard.press("Escape"), tab.keyboard.press("p")
    tab.wait_for_selector(".dk-picture")
    tab.keyboard.press("Escape")


def test_a_tip_moves_by_keyboard_and_the_numbers_follow(tab):
    tab.view("(x.arms = [[1.5, 0], [-1.2, 1.4], [-.5, -1.8]], x.drawHand())")
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


PAINTED = """async x => { const said = [], write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...at) { said.push(text); write.call(this, text, ...at); };
  try { await x.picture(); } finally { CanvasRenderingContext2D.prototype.fillText = write; } return said.join(""); }"""


def test_the_picture_says_what_it_shows_of_which_run_and_what_is_not_to_scale(browser, watch, record, tmp_path):
    page = browser.new_page()
    wrong = watch(page, [])
    page.goto(ConflictExplorer(record[:1], FEW, run="my <b>run</b>").to_html(tmp_path / "x.html").as_uri())
    page.wait_for_selector(".dkc svg")
    page.evaluate("(x => { const far = i => i ? 1 : 40; x.state.move = 0; x.steps[0].gram = x.steps[0].gram.map((r, i) => r.map((v, j) => v * far(i) * far(j))); x.paint(); })(document.getElementById('dk-host').explorer)")
    said, titles = page.evaluate(f"({PAINTED})(document.getElementById('dk-host').explorer)"), page.locator(".dkc section h3").all_text_contents()
    exact, held = page.evaluate("(x => [x.exact.textContent, x.held.textContent])(document.getElementById('dk-host').explorer)")
    assert "Gradient conflicts of my <b>run</b>, step 1Step 1: " in said
    assert "not to scale" in exact and exact in said and held in said and "lies in this plane" in held
    assert [t in said for t in titles] == [t != "By hand" for t in titles] and len(titles) == 7
    page.close()
    assert wrong == []


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
    said = conflict_summary({"recorded": 1, "terms": TERMS, "steps": [flat | {"planes": {"lengths": {"explained": None}}}]})
    assert given and all(f"{n} gave way to CE in {int(n in given)} of 1 steps" in said for n in TERMS[1:])


def test_an_explorer_that_a_notebook_cannot_keep_is_refused(record):
    with pytest.raises(ValueError, match="keep fewer `steps`"): ConflictExplorer(record, FEW).static(limit=30_000)
    with pytest.raises(ValueError, match="at least 1, found 0"): ConflictExplorer(record, FEW).static(steps=0)
