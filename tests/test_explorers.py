"""The attention explorer: traits and exports without a browser; then the page itself in headless Chromium, without a network."""
import json
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import hostile
import nbformat
import numpy as np
import pytest
from PIL import Image
from readme import ROOT

from drivekd.distill.capabilities import make_recipe
from drivekd.workbench import bundle as B
from drivekd.workbench import explorers, figures
from drivekd.workbench import pages as P
from drivekd.workbench.explorers import AttentionExplorer, _caption, _sides, common_sides, covered_by, grids_of, on_canvas
from drivekd.workbench.live import reply_to

SHIPPED = ROOT / "data/explorers/miniature.safetensors"
LIMIT = 68 * 1024  # bytes of the front end
CORPUS = [*hostile.CORPUS, "a\u0000b\u2028c"]


def slowly(*values): return pytest.param(*values, marks=pytest.mark.slow)  # what a faster case covers, too


@pytest.fixture(scope="module")
def shipped():
    return B.read(SHIPPED)


def test_the_chapter_opens_live_with_a_model_to_ask(monkeypatch):
    "Run All under a Jupyter server: the first cell's widget can ask the planning teacher again."
    chapter = ROOT / "nbs/explorers/attention.ipynb"
    [opening, *_] = [cell for cell in nbformat.read(chapter, 4).cells if cell.cell_type == "code"]
    shown = []
    monkeypatch.chdir(chapter.parent)
    monkeypatch.setenv("JPY_SESSION_NAME", str(chapter))
    monkeypatch.setattr("IPython.display.display", shown.append)
    exec(opening.source, {})
    assert shown[0].options == {"asks": True, "models": ["planning"]}


def test_the_chapter_says_what_the_recording_holds(shipped):
    held = {(m.method, m.head is None, all_words(m, shipped)) for m in shipped.maps}
    assert held == {("attention", True, True), ("attention", False, False), ("rollout", True, True), ("gradient", True, True)}
    assert all(max(m.layers) == model.layers - 2 for model in shipped.models for m in shipped.maps if m.model == model.name and m.method != "rollout")
    assert {(m.model, m.layers) for m in shipped.maps if m.head is not None} == {("planning", (6,)), ("student_agp", (2,)), ("student", (2,))}
    assert "holds the whole bundle" not in (ROOT / "nbs/explorers/attention.ipynb").read_text(encoding="utf-8")


def all_words(found, bundle): return len(found.rows) == len(bundle.tokens)

@pytest.fixture(scope="module", autouse=True)
def packed_once():
    "The front end and the shipped bundle are the same in most pages: half of what Python does here."
    with pytest.MonkeyPatch.context() as patch:
        for where, name in ((P, "front"), (P, "packed_text"), (explorers, "front")): patch.setattr(where, name, cache(getattr(where, name)))
        yield


def known():
    "Two grey pictures; the first model has 2 × 2 tokens each, the second 4 × 4 and a thumbnail; all attention of the first word lies on known tokens."
    pictures = {"left": Image.new("RGB", (160, 90), (128, 128, 128)), "right": Image.new("RGB", (160, 90), (128, 128, 128))}
    fine = B.square_grids(2, 32)
    thumb = B.Geometry(np.r_[fine.picture, 1], np.r_[fine.boxes, [[0, 0, 1, 1]]], np.r_[fine.overview, True])
    first, second = np.full((4, 8), 0.05), np.full((4, 33), 0.01)
    first[0], second[0] = 0, 0
    first[0, 6], second[0, [0, 27]] = 0.8, (0.05, 0.2)  # right picture: lower left; left picture: a corner, right picture: row 2, column 3
    return B.bundle_of("where is it there".split(), {"coarse": {0: first, 1: first[::-1], 2: first}, "fine": {0: second, 1: second, 2: second[::-1]}}, pictures,
                       {"coarse": B.square_grids(2, 8), "fine": thumb}, answer_from=3, roles={"coarse": "teacher", "fine": "student"}, recipe=make_recipe("agp"), depth={"coarse": 3, "fine": 3},
                       objects=[B.SceneObject("c1 box", 1, (0.25, 0.75), (0.0, 0.5, 0.5, 1.0)), B.SceneObject("c2", 0, (0.5, 0.5))])


# --- without a browser


def test_common_canvas_keeps_mass_whatever_the_grids():
    bundle = known()
    grids = grids_of(bundle, {"a": "coarse", "b": "fine", "layersA": [0], "layersB": [0], "rows": [0]})
    assert all(g.shape == (4, 4) for by in grids.values() for g in by.values())
    assert sum(g.sum() for g in grids["a"].values()) == pytest.approx(0.8, rel=1e-4) and sum(g.sum() for g in grids["b"].values()) == pytest.approx(0.25, rel=1e-4)
    assert grids["a"]["right"][2:, :2].sum() == pytest.approx(0.8, rel=1e-4)


def test_tokens_across_cell_borders_share_their_mass_by_area():
    odd = B.Geometry([0], [[0.25, 0.0, 0.75, 1.0]], [False])
    [grid] = on_canvas(np.array([1.0]), odd, [(1, 3)])
    assert grid == pytest.approx(np.array([[1 / 6, 4 / 6, 1 / 6]])) and common_sides([odd], 0) == (1, 2)


def test_front_end_is_small_and_writes_text_only_as_text():
    script = P.front("attention")
    assert len(script.encode()) < LIMIT and not [w for w in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://", "import ") if w in script]


def test_page_shows_foreign_text_and_runs_none_of_it():
    class Tags(HTMLParser):
        def __init__(self): super().__init__(); self.seen = []
        def handle_starttag(self, tag, attrs): self.seen.append((tag, [k for k, _ in attrs if k.startswith("on")]))
    for text in CORPUS:
        tags = Tags()
        tags.feed(P.page(text, "", b"", {"x": text}, text))
        assert [t for t, _ in tags.seen] == ["html", "head", "meta", "meta", "meta", "title", "style", "body", "main", "p", "script", "script", "script"] and not any(on for _, on in tags.seen)


def test_static_output_is_one_sandboxed_frame_with_picture_and_words(shipped):
    said = [i for i, t in enumerate(shipped.tokens) if t.role == "answer"]
    html = AttentionExplorer(shipped).static(rows=said, layers={"planning": [6], "student_agp": [2]})._repr_html_()
    assert html.count("<iframe") == 1 and 'sandbox="allow-scripts"' in html and "<script" not in html and 'src="data:image/png;base64,' in html and len(html) < 260_000
    assert "planning teacher, layer 7" in html.split("<details>")[1]


@pytest.mark.parametrize(("at", "told"), [({"a": "reasoning", "b": "planning", "head": 3}, ("reasoning teacher, layer 7, mean of heads: ", "planning teacher, layer 7, head 4: ")),
                                           ({"a": "perception", "b": "student", "head": 2}, ("perception teacher, layer 7, mean of heads: ", "student, layer 3, head 3: ")),
                                           ({"a": "reasoning", "method": "rollout"}, ("reasoning teacher, all layers, rollout: ", "student_agp, all layers, rollout: "))], ids=str)
def test_a_static_page_keeps_to_its_view(shipped, at, told):
    rows = [i for i, t in enumerate(shipped.tokens) if t.role == "answer"][:3]
    explorer = AttentionExplorer(shipped, {**at, "rows": rows[:1]})
    made = explorer.static(rows=rows, limit=400_000, jpeg_width=20)
    assert made.summary == explorer.summary() and [made.summary.count(t) for t in told] == [1, 1]


def test_a_static_page_keeps_its_models_without_the_preset_or_the_heads(shipped):
    few = AttentionExplorer(shipped, {"preset": "perception"}).static(rows=[60], layers={"perception": [3], "planning": [6], "student_agp": [2]}, jpeg_width=20).summary
    assert "perception teacher, layer 4, mean of heads: " in few and "student_agp, layer 3, mean of heads: " in few
    few = AttentionExplorer(shipped, {"a": "reasoning", "b": "planning", "head": 3}).static(rows=[60], heads=False, jpeg_width=20).summary
    assert "reasoning teacher, layer 7, mean of heads: " in few and "planning teacher, layer 7, mean of heads: " in few


def test_sizes_above_a_limit_are_refused_with_a_sentence(shipped, tmp_path):
    with pytest.raises(ValueError, match="keep fewer rows"): AttentionExplorer(shipped).static()
    with pytest.raises(ValueError, match="above the limit"): AttentionExplorer(shipped).to_html(tmp_path / "x.html", limit=1000)
    assert not list(tmp_path.iterdir())


def test_traits_hold_the_bundle_and_a_checked_view(shipped):
    pytest.importorskip("anywidget")
    explorer = AttentionExplorer(shipped, {"preset": "planning"})
    widget = explorer.widget()
    assert widget.data == shipped.to_bytes() and widget.options == {"asks": False} and set(widget.keys) >= {"data", "options", "view", "_esm"}
    widget.view = {"preset": "perception", "rows": [3, 4]}
    assert explorer.view == {"preset": "perception", "rows": [3, 4]} and "mean of 2 tokens" in explorer.summary() and "layer 1" in explorer.summary()
    for wrong in ({"rows": [10_000]}, {"a": "../../etc/passwd"}, {"code": "1"}):
        with pytest.raises(B.BundleError): widget.view = wrong
    assert explorer.view["rows"] == [3, 4]


@pytest.mark.parametrize("message", [None, "x", {}, {"kind": "run"}, {"kind": "ablate", "model": "planning"}, {"kind": "ablate", "model": "/etc/passwd", "boxes": [[0, 0, 0, 1, 1]]},
                                     {"kind": "ablate", "model": "planning", "boxes": [[9, 0, 0, 1, 1]]}, {"kind": "ablate", "model": "planning", "boxes": [[0, 0, 0, 1, 7]]}, {"kind": "ablate", "model": "planning", "boxes": []}])
def test_messages_that_ask_for_something_else_never_reach_the_model(shipped, message):
    asked = []
    assert "error" in reply_to(AttentionExplorer(shipped, ablate=lambda *a: asked.append(a)).answer, message) and not asked


def test_an_ablation_reaches_the_model_and_comes_back(shipped):
    from drivekd.workbench.recording import Answered
    explorer = AttentionExplorer(shipped, ablate=lambda model, boxes: (Answered("a", 1.0), Answered(f"{model} {boxes}", 2.0)))
    reply = reply_to(explorer.answer, {"kind": "ablate", "model": "student", "boxes": [[0, 0, 0, 0.5, 1], [0, 0.5, 0, 1, 1]]})
    assert reply["after"] == {"reply": "student {0: [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}", "loss": 2.0}


# --- in a browser


def view(tab, expression): return tab.of(expression)


PIXEL = """([panel, picture, fx, fy]) => { const v = document.querySelector('.dk').view, p = v.panels[panel], b = p.boxes[picture];
  return [...v.canvas.getContext('2d').getImageData((p.x + b.x + fx * b.w) * v.shape.ratio, (p.y + b.y + fy * b.h) * v.shape.ratio, 1, 1).data].slice(0, 3); }"""
YELLOW, ORANGE, BLUE = (253, 231, 37), (255, 140, 30), (60, 130, 255)


def blended(colour, opacity=0.8, grey=128):
    return pytest.approx([opacity * c + (1 - opacity) * grey for c in colour], abs=6)


def test_pixels_of_a_known_map_are_at_their_places(opened):
    tab = opened(AttentionExplorer(known(), {"a": "coarse", "b": "fine", "layersA": [0], "layersB": [0], "rows": [0], "mode": "all", "objects": False, "norm": "row"}).page())
    pixel = lambda *at: tab.evaluate(PIXEL, list(at))
    first, second, difference = 0, 1, 2
    assert pixel(first, 1, 0.3, 0.6) == blended(YELLOW) and pixel(first, 1, 0.3, 0.4) == blended(YELLOW, 0) and pixel(first, 0, 0.3, 0.6) == blended(YELLOW, 0)
    assert pixel(second, 1, 0.8, 0.6) != blended(YELLOW, 0) and pixel(second, 1, 0.8, 0.9) == blended(YELLOW, 0)
    assert pixel(difference, 1, 0.3, 0.6) == blended(BLUE) and pixel(difference, 1, 0.8, 0.6) == blended(ORANGE)


def test_the_browser_computes_what_python_computes(opened):
    bundle, at = known(), {"a": "coarse", "b": "fine", "layersA": [1], "layersB": [0], "rows": [0, 2], "norm": "row"}
    tab = opened(AttentionExplorer(bundle, {**at, "sinks": False}).page())
    grids = grids_of(bundle, at)
    for side in "ab": assert view(tab, f"[...view.now.{side}]") == pytest.approx(np.concatenate([g.ravel() for g in grids[side].values()]).tolist(), abs=1e-6)
    a, b = (np.concatenate([g.ravel() for g in grids_of(bundle, {**at, "rows": [0]})[n].values()]) for n in "ab")
    row = view(tab, "view.distances[0]")
    p, q = a / a.sum(), b / b.sum()
    assert row["mse"] == pytest.approx(((a - b) ** 2).mean(), rel=1e-3) and row["kl"] == pytest.approx((p * np.log((p + 1e-6) / (q + 1e-6))).sum(), rel=1e-3)


def joined(grids): return np.concatenate([g.ravel() for g in grids.values()]).tolist()


def test_a_patch_holds_the_same_area_of_both_models(opened):
    "A teacher of 2 × 2 and a student of 4 × 4 tokens that look everywhere alike."
    maps = {"coarse": {0: np.full((2, 4), 1 / 4)}, "fine": {0: np.full((2, 16), 1 / 16)}}
    bundle = B.bundle_of(["a", "b"], maps, {"p": Image.new("RGB", (64, 64))}, {"coarse": B.square_grids(1, 4), "fine": B.square_grids(1, 16)}, roles={"coarse": "teacher", "fine": "student"})
    tab = opened(AttentionExplorer(bundle).page())
    found = view(tab, "view.numbers(view.centre({picture: 0, x: 0.3, y: 0.3}))")
    assert len(found) == 3 and "difference +0.0 points" in found and all("25" in f for f in found[:2])


def test_tags_are_drawn_as_they_are_counted(opened):
    "A corner of the square around a tag's point is drawn: it is inside of what is counted."
    tab = opened(AttentionExplorer(known(), {"a": "coarse", "b": "fine", "layersA": [0], "layersB": [0], "rows": [0], "mode": "a", "norm": "row"}).page())
    grey, corner = (tab.evaluate(PIXEL, [0, 0, x, x]) for x in (0.40, 0.4403))
    assert view(tab, "view.looks.objects.map(o => o.label)")[1] == "c2" and max(abs(a - b) for a, b in zip(grey, corner, strict=True)) > 15


@pytest.mark.parametrize("at", [slowly({"method": "rollout", "layersA": [7], "layersB": [3]}), {"method": "gradient", "layersA": [6], "layersB": [2]}, {"head": 3, "layersA": [6], "layersB": [2]},
                                slowly({"head": 3, "layersA": [6], "layersB": [0]}), {"method": "rollout"}], ids=str)
def test_methods_and_heads_are_the_same_in_python_and_in_the_browser(opened, shipped, at):
    at = {"a": "planning", "b": "student", "rows": [len(shipped.tokens) - 3], "norm": "row", **at}
    if at.get("method") == "gradient": at["norm"] = "pictures"  # gradients have no unit of their own
    tab, grids = opened(AttentionExplorer(shipped, at).page()), grids_of(shipped, at)
    for side in grids:
        expected = np.array(joined(grids[side]))
        if at["norm"] == "pictures": expected /= expected.sum()
        assert view(tab, f"[...view.now.{side}]") == pytest.approx(expected.tolist(), abs=1e-5)
    words = {"rollout": "rollout", "gradient": "gradient-weighted"}.get(at.get("method"), f"head {at.get('head', 0) + 1}")
    assert words in AttentionExplorer(shipped, at).summary() and words in view(tab, "view.caption('a')")
    for side, look in _sides(shipped, at).items(): assert view(tab, f"view.caption('{side}')") == _caption(shipped, look)


def test_a_head_and_a_method_change_what_python_shows(shipped):
    at = {"a": "planning", "b": "student", "layersA": [6], "layersB": [2], "rows": [len(shipped.tokens) - 3]}
    shown = [joined(grids_of(shipped, {**at, **more})["a"]) for more in ({}, {"head": 3}, {"method": "gradient"})]
    assert shown[0] != shown[1] != shown[2] != shown[0]


def test_the_shipped_bundle_opens_on_a_teacher_beside_the_student_that_learned_from_its_attention(opened, shipped):
    explorer = AttentionExplorer(shipped)
    assert [side.model for side in _sides(shipped, explorer.view).values()] == view(opened(explorer.page()), "[view.state.a, view.state.b]") == ["planning", "student_agp"]


@pytest.mark.parametrize(("at", "both"), [({"a": "student"}, ["student", "student_agp"]), slowly({"b": "student"}, ["planning", "student"]), ({"b": "planning"}, ["perception", "planning"]), slowly({"a": "reasoning"}, ["reasoning", "student_agp"])], ids=str)
def test_a_view_that_names_one_model_gets_another_beside_it(opened, shipped, at, both):
    explorer = AttentionExplorer(shipped, at)
    assert [said.split(",")[0].split(": ")[-1].replace(" teacher", "") for said in explorer.summary().split("pictures. ")[1].split("; ")] == [b.replace(" teacher", "") for b in both]
    layers = [[*side.layers] for side in _sides(shipped, explorer.view).values()]
    assert view(opened(explorer.page()), "[view.state.a, view.state.b, view.state.layersA, view.state.layersB]") == [*both, *layers]


def test_a_model_named_anew_leaves_the_side_where_it_stood(shipped):
    explorer = AttentionExplorer(shipped, {"a": "planning", "b": "student"})
    explorer._keep({"a": "student"})
    assert explorer.view == {"a": "student"} and "student_agp, layer" in explorer.summary() and "planning" not in explorer.summary()


def test_a_bundle_of_one_model_compares_it_with_nobody():
    assert set(grids_of(partial(), {"a": "m"})) == {"a"}


def test_one_model_may_stand_on_both_sides(opened, shipped):
    at = {"a": "planning", "b": "planning", "layersA": [0], "layersB": [6]}
    explorer = AttentionExplorer(shipped, at)
    grids = grids_of(shipped, at)
    assert set(grids) == {"a", "b"} and explorer.picture(60).size[0] > 0 and explorer.summary().count(f"{at['a']}") >= 2
    tab = opened(explorer.page())
    for side in grids:
        expected = np.array(joined(grids[side]))
        if view(tab, "view.state.norm") == "pictures": expected /= expected.sum()
        assert view(tab, f"[...view.now.{side}]") == pytest.approx(expected.tolist(), abs=1e-5)


def test_layers_that_no_preset_compares_are_not_called_one(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student", "layersA": [0], "layersB": [0]}).page())
    assert view(tab, "[view.state.preset, view.state.layersA, view.state.layersB]") == [None, [0], [0]] and tab.inner_text(".dk-layers") == ""


def test_a_preset_picks_the_teacher_that_teaches_it(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "student", "b": "perception"}).page())
    tab.click("button[data-value=planning]")
    assert view(tab, "[view.state.a, view.state.b]") == ["planning", "student_agp"]


@pytest.mark.slow
def test_a_difference_names_the_head_of_each_side(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student", "head": 3, "layersA": [6], "layersB": [1]}).page())
    assert "mean of heads" in view(tab, "view.caption('difference')") and "head 4" in view(tab, "view.caption('difference')")


def test_places_of_words_count_characters_as_python_does(opened):
    text = "\U0001f697 stops now"
    bundle = B.bundle_of(text.split(), {"m": {0: np.full((3, 4), 0.1)}}, {"p": Image.new("RGB", (20, 20))}, answer_from=3)
    tab = opened(AttentionExplorer(bundle).page())
    assert tab.evaluate("document.querySelector('.dk-words').textContent") == text


def test_grids_of_coprime_widths_meet_at_the_finest_raster():
    primes = [p for p in range(2, 80) if all(p % q for q in range(2, p))]
    assert common_sides([B.square_grids(1, p * p) for p in primes], 0) == (96, 96)


@pytest.mark.parametrize("wrong", [{"layersA": [99]}, {"layersA": []}, {"layersB": []}, {"head": "x"}, {"head": 99}, {"rows": None}, {"rows": "12"}, {"layersB": [True]}, {"method": "rollout", "layersA": [0]}, {"preset": "planning", "a": "student"}], ids=str)
def test_a_view_of_what_was_not_recorded_is_one_sentence(shipped, wrong):
    explorer = AttentionExplorer(shipped)
    with pytest.raises(B.BundleError): explorer._keep(wrong)
    assert explorer.view == {} and explorer.summary()


def test_grounding_is_mass_area_and_lift(opened):
    tab = opened(AttentionExplorer(known(), {"a": "coarse", "b": "fine", "layersA": [0], "layersB": [0], "rows": [0], "norm": "pictures"}).page())
    score = view(tab, "view.score(view.now.a, view.looks.objects[0].box, 1)")
    assert score["mass"] == pytest.approx(1, abs=1e-4) and score["area"] == pytest.approx(1 / 8) and score["lift"] == pytest.approx(8, rel=1e-3) and score["beats"] > 0.95
    assert score["random"] == pytest.approx(1 / 8, abs=0.05)


def test_shares_of_the_cameras_sum_to_one_and_follow_the_token(opened, shipped):
    tab = opened(AttentionExplorer(shipped).page())
    before = tab.eval_on_selector_all(".dk-shares td.dk-bar", "cells => cells.map(c => Number(c.dataset.share))")
    assert len(before) == 12 and sum(before[::2]) == pytest.approx(1) and sum(before[1::2]) == pytest.approx(1)
    tab.hover(".dk-token[data-row='20']")
    assert tab.eval_on_selector_all(".dk-shares td.dk-bar", "cells => cells.map(c => Number(c.dataset.share))") != before


def test_everything_is_reached_by_keyboard(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    state = lambda key: view(tab, f"view.state.{key}")
    tab.focus(".dk-token[tabindex='0']")
    first = state("rows")[0]
    tab.keyboard.press("Home"), tab.keyboard.press("ArrowRight"), tab.keyboard.press("ArrowRight")
    assert state("rows") == [2] and first != 2 and tab.evaluate("document.activeElement.dataset.row") == "2"
    tab.keyboard.press("Shift+ArrowRight")
    assert state("rows") == [2, 3]
    for key, name, value in (("3", "mode", "difference"), ("s", "sinks", True), ("l", "layout", "top-down"), ("c", "colours", "cividis"), ("o", "objects", False)):
        tab.keyboard.press(key)
        assert state(name) == value
    tab.keyboard.press("h")
    assert state("head") == 0
    tab.focus("canvas")
    tab.keyboard.press("ArrowRight")
    here = state("patch")
    for _ in range(12): tab.keyboard.press("ArrowRight")
    assert here and state("patch")["picture"] != here["picture"] and "Patch of CAM_" in tab.inner_text(".dk-readout")
    tab.keyboard.press("Escape")
    assert state("patch") is None
    tab.keyboard.press("?")
    assert tab.is_visible("text=previous, next token") and tab.evaluate("document.activeElement.className") == "dk-over"
    tab.keyboard.press("Escape")
    assert not tab.is_visible(".dk-over") and "dk-over" not in tab.evaluate("document.activeElement.className")


@pytest.mark.parametrize(("key", "layer"), [("[", 5), ("ArrowDown", 5), ("]", 0), ("ArrowUp", 0)])
def test_a_layer_key_leaves_a_preset_of_one_pair(opened, shipped, key, layer):
    "The preset shows the last recorded layer: the keys go round."
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    assert view(tab, "[view.state.layersA, view.state.preset]") == [[6], "planning"]
    tab.focus(".dk-token[tabindex='0']"), tab.keyboard.press(key)
    assert view(tab, "[view.state.layersA, view.state.layersB, view.state.preset]") == [[layer], [2 if layer == 5 else 0], None]


def test_the_tab_key_chooses_no_token(opened, shipped):
    tab = opened(AttentionExplorer(shipped).page())
    before, on = view(tab, "view.state.rows"), []
    while tab.evaluate("document.activeElement.tagName") != "CANVAS" and len(on) < 60:
        tab.keyboard.press("Tab")
        on.append(tab.evaluate("document.activeElement.dataset.row"))
    assert [row for row in on if row] == [str(before[0])] and len(on) < 60
    assert view(tab, "view.state.rows") == before


def test_words_and_patches_are_linked_both_ways(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student", "layersA": [6], "layersB": [2], "mode": "a", "norm": "row"}).page())
    row = next(i for i, t in enumerate(shipped.tokens) if t.text == " is" and t.role == "answer")
    tab.hover(f".dk-token[data-row='{row}']")
    assert view(tab, "view.now.a.indexOf(Math.max(...view.now.a))") == int(shipped.values("planning", 6)[row].argmax())
    tab.mouse.move(0, 0)
    x, y = view(tab, "(() => { const r = view.canvas.getBoundingClientRect(), p = view.panels[0], b = p.boxes[0]; return [r.x + p.x + b.x + b.w * 3.5 / 8, r.y + p.y + b.y + b.h * 4.5 / 8]; })()")
    tab.mouse.move(x, y)
    shades = tab.eval_on_selector_all(".dk-token", "chips => chips.map(c => [Number(c.dataset.row), Number((c.style.backgroundColor.match(/[\\d.]+(?=\\))/) || [0])[0])])")
    assert max(shades, key=lambda s: s[1])[0] == int(shipped.values("planning", 6)[:, 4 * 8 + 3].argmax())
    assert "planning teacher" in tab.inner_text(".dk-readout") and "Patch of CAM_FRONT" in tab.inner_text(".dk-readout")


@pytest.mark.slow
def test_tokens_sort_by_their_distance(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    for key in ("kl", "mse"):
        tab.click(f"button[data-sort={key}]"), tab.click(f"button[data-sort={key}]") if view(tab, "view.state.ascending") else None
        rows = tab.eval_on_selector_all(".dk-distances tr[data-row]", "lines => lines.map(l => Number(l.dataset.row))")
        values = view(tab, f"view.distances.map(d => d.{key})")
        ordered = [values[r] for r in rows]
        assert len(rows) == len(shipped.tokens) and (ordered == sorted(ordered, reverse=True))


def test_sinks_are_masked_on_request(opened):
    rng = np.random.default_rng(1)
    maps = {0: np.c_[np.full((20, 1), 0.6), rng.dirichlet(np.ones(63), 20) * 0.3]}  # the first token takes two thirds of everything
    bundle = B.bundle_of(["w"] * 20, {"m": maps}, {"p": Image.new("RGB", (64, 64))})
    tab = opened(AttentionExplorer(bundle, {"rows": [4]}).page())
    assert view(tab, "view.now.a[0]") == pytest.approx(2 / 3, rel=0.02)
    tab.check("text=hide sinks")
    assert view(tab, "[view.now.a[0], [...view.now.a].reduce((s, x) => s + x)]") == [0, pytest.approx(1, rel=1e-4)]


@pytest.mark.slow
def test_methods_and_heads_are_offered_where_they_were_recorded(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    head, mean = (f"view.looks.row({{model: 'planning', method: 'attention', head: {h}, layers: [6]}}, {len(shipped.tokens) - 3})" for h in ("3", "null"))
    assert view(tab, f"[...{head}]") != view(tab, f"[...{mean}]")
    heads = np.mean([shipped.values("planning", 6, head=h)[-3] for h in range(8)], 0)
    assert view(tab, f"[...{mean}]") == pytest.approx(heads.tolist(), abs=2e-3)
    for method in ("rollout", "gradient"):
        tab.select_option("label:has-text('method') select", method)
        assert view(tab, "view.now.a.some(x => x > 0)") and view(tab, "view.state.method") == method


def test_foreign_text_is_shown_literally(opened):
    words = [w if w.strip() else "x" for w in CORPUS]
    bundle = B.bundle_of(words, {hostile.TAG: {0: np.full((len(words), 4), 0.1)}, hostile.RUNS: {0: np.full((len(words), 4), 0.2)}}, {hostile.RUNS: Image.new("RGB", (20, 20))}, answer_from=9,
                         roles={hostile.TAG: "teacher", hostile.RUNS: "student"}, objects=[B.SceneObject(hostile.RUNS, 0, (0.5, 0.5))])
    tab = opened(AttentionExplorer(bundle).page())
    chips = dict(tab.eval_on_selector_all(".dk-token", "chips => chips.map(c => [Number(c.dataset.row), c.textContent])"))
    assert [chips[i] for i in range(len(words))] == words
    assert tab.inner_text(".dk-readout").count(hostile.TAG) >= 1 and tab.eval_on_selector_all("img, b > *, script[src]", "found => found.length") == 0
    tab.keyboard.press("Tab")
    tab.click("text=About")
    assert hostile.RUNS in tab.inner_text(".dk-over")


KEPT = """() => { const said = [], pen = CanvasRenderingContext2D.prototype, write = pen.fillText;
  pen.fillText = function (text, ...at) { said.push(text); write.call(this, text, ...at); };
  try { document.querySelector('.dk').view.keep(); } finally { pen.fillText = write; }
  return said.join(' '); }"""


@pytest.mark.parametrize(("more", "told"), [({}, ["mean of heads; student, layer 3, mean of heads", "answer token \u201c is\u201d"]), ({"head": 3, "mode": "a"}, ["planning teacher, layer 7, head 4"]),
                                           ({"method": "gradient", "mode": "b", "sinks": True}, ["Attention without sinks: student, layer 3, gradient-weighted"]), ({"rows": [66, 67, 68]}, ["Mean of 3 tokens: car ahead is"])], ids=str)
def test_a_kept_picture_says_what_it_shows(opened, shipped, monkeypatch, more, told):
    "Model, layer, method or head, words and question: in the browser's picture and in Python's."
    row = next(i for i, t in enumerate(shipped.tokens) if t.text == " is" and t.role == "answer")
    explorer, written = AttentionExplorer(shipped, {"a": "planning", "b": "student", "layersA": [6], "layersB": [2], "rows": [row], **more}), []
    tab = opened(explorer.page())
    said = tab.evaluate(KEPT)
    for words in (*told, "Question: " + shipped.question[:60]): assert words in said
    uri, alt = tab.evaluate("(() => { const i = document.querySelector('.dk-picture'); return [i.src, i.alt]; })()")
    assert uri.startswith("data:image/png;base64,") and len(uri) > 50_000 and told[0] in alt
    for where in (figures, explorers): monkeypatch.setattr(where, "heading", lambda text, width, made=figures.heading: written.append(text) or made(text, width))
    explorer.picture(120)
    shown = {"a": "a", "b": "b"}.get(explorer.view.get("mode"), "ab")
    for look in (_sides(shipped, explorer.view)[side] for side in shown): assert _caption(shipped, look) in " ".join(written)
    assert "Question: " + shipped.question[:60] in " ".join(written) and ("mean of 3 tokens: car ahead is" if "rows" in more else "at 'is' of the answer") in " ".join(written)


ACT = """([what, times]) => { const chips = [...document.querySelectorAll('.dk-token')], view = document.querySelector('.dk').view;
  for (let i = 0; i < times; i++) {
    if (what === 'hover') chips[(7 * i) % chips.length].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
    else chips[0].dispatchEvent(new KeyboardEvent('keydown', {key: i % 2 ? ']' : '[', bubbles: true}));
    view.canvas.getContext('2d').getImageData(0, 0, 1, 1); document.body.offsetHeight;  // drawn and laid out before the next one
  } }"""


def large():
    "Six cameras of a large model: 10 944 vision tokens, 32 rows, 4 layers; a student with half the tokens a side."
    rng = np.random.default_rng(0)
    def grid(rows, columns):
        r, c = np.divmod(np.arange(rows * columns), columns)
        return np.stack([c / columns, r / rows, (c + 1) / columns, (r + 1) / rows], 1)
    geometry = {n: B.Geometry(np.repeat(np.arange(6), rows * columns), np.tile(grid(rows, columns), (6, 1)), np.zeros(6 * rows * columns, bool)) for n, rows, columns in (("big", 32, 57), ("small", 16, 57))}
    names = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
    maps = {n: {l: rng.exponential(size=(32, len(g.picture))) / (2 * len(g.picture)) for l in range(4)} for n, g in geometry.items()}
    return B.bundle_of(["word"] * 32, maps, {n: Image.new("RGB", (800, 450)) for n in names}, geometry, roles={"big": "teacher", "small": "student"}, answer_from=20)


@pytest.mark.parametrize("which", ["shipped", slowly("large")])
def test_hover_and_layer_change_take_less_than_50_ms(opened, shipped, which):
    "Of the page's own thread: what else runs on this machine is not its fault."
    tab = opened(AttentionExplorer(shipped if which == "shipped" else large(), {"mode": "all", **({"preset": "reasoning"} if which == "shipped" else {})}).page())
    clock = tab.context.new_cdp_session(tab)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
    spent = lambda: 1000 * next(m["value"] for m in clock.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")
    for what, times in (("hover", 20), ("layer", 10)):
        before = spent()
        tab.evaluate(ACT, [what, times])
        each = (spent() - before) / times
        print(f"{which}: {each:.1f} ms per {what}")
        assert each < 50


def test_a_widget_talks_to_its_kernel(opened, shipped):
    "The same front end on a model that stands in for Jupyter's: state goes out, an ablation comes back, state comes in."
    html = P.page("widget", P.front("attention"), shipped.to_bytes(), {}).replace(P._BOOT, """
      fromBase64(document.getElementById("dk-data").textContent).then(bytes => {
        const traits = {data: new DataView(bytes.buffer), options: {asks: true}, view: {preset: "planning"}}, listeners = {}, sent = globalThis.sent = [];
        const model = globalThis.model = {get: k => traits[k], set: (k, v) => { traits[k] = v; if (listeners["change:" + k]) listeners["change:" + k](); }, save_changes() {}, on: (k, f) => { listeners[k] = f; }, fire: (k, m) => listeners[k](m),
          send: m => { sent.push(m); setTimeout(() => listeners["msg:custom"]({id: m.id, before: {reply: "green", loss: 0.1}, after: {reply: "<b>blue</b>", loss: 0.03}})); }};
        explore(document.getElementById("dk-host"), widgetChannel(model));
      });""")
    tab = opened(html)
    tab.focus("canvas"), tab.keyboard.press("ArrowRight"), tab.click(".dk-ablate")
    tab.wait_for_selector("text=becomes")
    [asked] = tab.evaluate("sent")
    assert asked["kind"] == "ablate" and asked["model"] == "planning" and len(asked["boxes"]) == 1 and "<b>blue</b>" in tab.inner_text(".dk-result")
    tab.keyboard.press("2")
    out = tab.evaluate("model.get('view')")
    assert out["mode"] == "b" and json.dumps(out) and AttentionExplorer(shipped, out).view == out
    tab.evaluate("model.set('view', {mode: 'difference', rows: [5]})")
    assert view(tab, "[view.state.mode, view.state.rows]") == ["difference", [5]]
    tab.evaluate("model.set('view', {preset: 'reasoning'})")
    pairs = next(p.pairs for p in shipped.plans if (p.capability, p.teacher) == ("reasoning", "reasoning"))
    tab.focus(".dk-token[tabindex='0']")
    for step in (1, 2):  # the kernel's echo of what was sent must not begin again
        tab.keyboard.press("]")
        assert view(tab, "[view.state.step, view.state.layersB, view.state.layersA]") == [step, [pairs[step][0]], list(pairs[step][1])]
    assert f"pair 3 of {len(pairs)}" in tab.inner_text(".dk-layers")
    tab.evaluate("model.set('view', {head: 0, preset: null})")
    assert view(tab, "[view.state.head, view.state.preset]") == [0, None]
    tab.evaluate("model.set('view', {head: null})")
    assert view(tab, "view.state.head") is None
    tab.keyboard.press("1"), tab.focus("canvas"), tab.keyboard.press("ArrowRight")
    for count in (0, 1):  # let go of a patch, and take it again
        patch = json.dumps(view(tab, "view.state.patch"))
        tab.evaluate(f"document.querySelector('.dk').view.point({'null' if not count else 'globalThis.patch'}, true), globalThis.patch ??= {patch}")
        assert tab.eval_on_selector_all(".dk-ablate", "found => found.length") == count


@pytest.mark.parametrize("width", [slowly(1400), slowly(820), 390])
def test_no_width_scrolls_sideways(opened, shipped, width):
    tab = opened(AttentionExplorer(shipped).page(), width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


# --- what a demanding reader asked for


def partial(rows=3, words="a b c d e"):
    return B.bundle_of(words.split(), {"m": {0: np.full((rows, 4), 0.25)}}, {"p": Image.new("RGB", (8, 8))}, rows=range(rows), answer_from=3)


def test_maps_of_some_tokens_are_shown_as_far_as_they_go(opened):
    "The answer was not recorded: the first recorded token is shown, and others say that there is nothing."
    explorer = AttentionExplorer(partial())
    assert "at 'a' of the question" in explorer.summary() and explorer.picture(60).width > 0 and explorer.static()._repr_html_()
    tab = opened(explorer.page())
    assert view(tab, "view.state.rows") == [0] and view(tab, "[...view.now.a].length") == 4
    beyond = AttentionExplorer(partial(), {"rows": [4]})
    assert "was recorded for the question's tokens only; choose one of them" in beyond.summary() and beyond.picture(60).width > 0 and beyond.static()._repr_html_()
    tab = opened(beyond.page())
    assert view(tab, "view.now.a") is None and "was recorded for the question's tokens only; choose one of them." in tab.inner_text(".dk-readout")


def test_a_head_without_the_chosen_token_is_a_sentence_and_no_scale(opened, shipped):
    "The shipped bundle holds the heads' maps of the answer's tokens only."
    tab = opened(AttentionExplorer(shipped, {"preset": "planning", "mode": "all"}).page())
    view(tab, "view.change({head: 2, rows: [3], layout: 'panorama'}, true)")
    why = "planning teacher and student_agp: head 3 was recorded for the answer's tokens only; choose one of them or the mean of heads."
    assert why in tab.inner_text(".dk-readout") and tab.inner_text(".dk aside").strip() == ""
    said = AttentionExplorer(shipped, {"preset": "planning", "head": 2, "rows": [3]}).summary()
    assert all(f"{of}, head 3: {why.split(': ')[1][:-1]}" in said for of in ("planning teacher, layer 7", "student_agp, layer 3"))
    assert not any("%" in text or text.startswith("by direction") for text in tab.evaluate(WRITTEN))
    view(tab, "view.change({rows: [54]}, true)")
    assert "recorded for" not in tab.inner_text(".dk-readout") and tab.inner_text(".dk aside").strip()
    assert sum(text.startswith("by direction") for text in tab.evaluate(WRITTEN)) == 2


def test_attention_of_nothing_on_the_pictures_is_said():
    nothing = B.bundle_of(["a"], {"m": {0: np.zeros((1, 4))}}, {"p": Image.new("RGB", (8, 8))})
    assert "nothing on the pictures" in AttentionExplorer(nothing).summary() and AttentionExplorer(nothing).picture(60).width > 0


def test_where_the_row_goes_is_said_of_a_single_head_as_far_as_it_was_recorded(opened, shipped):
    row = len(shipped.tokens) - 3
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student", "layersA": [6], "layersB": [2], "rows": [row]}).page())
    three, two = view(tab, "view.looks.shares(view.side('a'), view.rows())"), view(tab, "(view.change({head: 3}, true), view.looks.shares(view.side('a'), view.rows()))")
    place = shipped.find("planning").rows.index(row)
    assert three == pytest.approx(shipped.find("planning").share[6, place].tolist(), abs=1e-6) and sum(three) == pytest.approx(1, abs=1e-3)
    seen = float(shipped.values("planning", 6, head=3)[shipped.find("planning", head=3).rows.index(row)].sum())
    assert two == pytest.approx([seen, 1 - seen], abs=1e-5) and "rest: text and first token, told apart for the mean of heads only" in tab.inner_text(".dk aside")
    view(tab, "view.change({head: null, method: 'rollout'}, true)")
    assert "Where the row goes" not in tab.inner_text(".dk aside")


def test_only_methods_of_the_shown_models_are_offered(opened, shipped):
    bundle = replace(shipped, maps=tuple(m for m in shipped.maps if m.method == "attention" or (m.model, m.method) == ("reasoning", "rollout")))
    tab = opened(AttentionExplorer(bundle, {"a": "planning", "b": "student"}).page())
    offered, first = "label:has-text('method') select", "label:has-text('first') select"
    assert not tab.is_visible(offered)
    tab.select_option(first, "reasoning"), tab.select_option(offered, "rollout")
    assert tab.eval_on_selector_all(offered + " option", "all => all.map(o => o.value)") == ["attention", "rollout"] and view(tab, "view.state.method") == "rollout"
    tab.select_option(first, "planning")
    assert view(tab, "[view.state.method, view.state.layersA.length]") == ["attention", 1] and not tab.is_visible(offered)


def test_cameras_are_listed_as_one_looks_around(opened, shipped):
    tab = opened(AttentionExplorer(shipped).page())
    assert tab.eval_on_selector_all(".dk-shares tbody td:first-child", "cells => cells.map(c => c.textContent)") == [c for row in figures.PANORAMA for c in row]
    share = view(tab, "view.common.on(view.now.a, 1) / view.now.a.reduce((s, x) => s + x)")
    assert float(tab.get_attribute(".dk-shares td.dk-bar", "data-share")) == pytest.approx(share)  # of the second camera of the bundle


PLACES = """() => ['canvas', '.dk-readout', '.dk-small', '.dk-sunk', '.dk-list', 'aside', '> div > .dk-note'].flatMap(
  at => [...document.querySelectorAll('.dk ' + at)].map(n => Math.round(n.getBoundingClientRect().top + scrollY)))"""


@pytest.mark.parametrize(("width", "at"), [(1024, {"preset": "planning", "sinks": True}), slowly(1440, {"preset": "planning", "sinks": True}), slowly(1024, {"preset": "reasoning"}), (1440, {"a": "planning", "b": "student", "head": 3, "sinks": True})], ids=str)
def test_pointing_moves_nothing(opened, shipped, width, at):
    tab = opened(AttentionExplorer(shipped, at).page(), width)
    before = tab.evaluate(PLACES)
    for row in range(0, len(shipped.tokens), 5):
        tab.dispatch_event(f".dk-token[data-row='{row}']", "pointerover")
        assert (row, tab.evaluate(PLACES)) == (row, before)
    view(tab, "view.peek(null)")
    for x in (0.1, 0.5, 0.9):
        view(tab, f"view.point(view.centre({{picture: 2, x: {x}, y: 0.5}}))")
        assert tab.evaluate(PLACES) == before


def active(tab): return tab.evaluate("document.activeElement.dataset.focus")


@pytest.mark.slow
def test_the_keyboard_stays_where_it_was_pressed(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    for where in ("[data-focus='sort kl']", "[data-focus='row 5']", "[data-focus='object 1']"):
        tab.focus(where), tab.keyboard.press("Enter")
        assert active(tab) == where.split("'")[1]


def test_hiding_sinks_says_how_much_of_the_row_goes(opened, shipped):
    row = next(i for i, t in enumerate(shipped.tokens) if t.text == " is" and t.role == "answer")
    at = {"preset": "planning", "rows": [row], "sinks": True}
    tab, explorer = opened(AttentionExplorer(shipped, at).page()), AttentionExplorer(shipped, at)
    marks, values = view(tab, "[...view.looks.sink(view.side('a'))]"), shipped.values("planning", 6)[row]
    whole = float(values[np.array(marks, bool)].sum())
    assert sum(marks) == 3 and whole > 0.5
    assert f"3 sinks hidden: {100 * whole:.0f}" in tab.inner_text(".dk-sunk") and f"3 sinks hidden with {whole:.0%} of the row" in explorer.summary()
    assert view(tab, "[...view.now.a]") == pytest.approx(joined(grids_of(shipped, at)["a"]), abs=1e-5)
    assert "sink" not in AttentionExplorer(shipped, {**at, "sinks": False}).summary()
    assert "more than half of the recorded rows give this patch over 8 times an even share" in tab.inner_text(".dk-sunk")
    over = [o.label for o in covered_by(shipped, _sides(shipped, at)["a"])]
    assert "blue car" in over and view(tab, "view.looks.covered(view.side('a')).map(o => o.label)") == over
    assert "\u26a0 Hidden patches lie in the box of blue car (CAM_FRONT)" in tab.inner_text(".dk-sunk") and "hidden patches lie in the box of blue car (CAM_FRONT)" in explorer.summary()
    tab.uncheck("text=hide sinks")
    assert tab.inner_text(".dk-sunk") == ""


def test_a_tag_is_covered_where_its_drawn_square_meets_a_sink(opened):
    "The first token of the first row of 8 x 8 is a sink: a tag 0.05 beside it is covered, one 0.07 beside it is not."
    maps = {0: np.c_[np.full((20, 1), 0.6), np.full((20, 63), 0.4 / 63)]}
    tags = [B.SceneObject(f"tag {i}", 0, (0.125 + away, 0.05)) for i, away in enumerate((0.05, 0.07))]
    bundle = replace(B.bundle_of(["w"] * 20, {"m": maps}, {"p": Image.new("RGB", (64, 64))}), objects=tuple(tags))
    explorer = AttentionExplorer(bundle, {"sinks": True})
    assert [o.label for o in covered_by(bundle, _sides(bundle, {})["a"])] == ["tag 0"] == view(opened(explorer.page()), "view.looks.covered(view.side('a')).map(o => o.label)")


LONG = "OpenGVLab/InternVL3-8B-hf, fine-tuned on everything that could be found, checkpoint 2000, bfloat16"


def renamed(bundle):
    name = {"planning": LONG, "student": LONG + " again"}
    of = lambda n: name.get(n, n)
    return replace(bundle, models=tuple(replace(m, name=of(m.name)) for m in bundle.models), maps=tuple(replace(m, model=of(m.model)) for m in bundle.maps),
                   plans=tuple(replace(p, teacher=of(p.teacher), student=of(p.student)) for p in bundle.plans))


INSIDE = """() => { const right = document.querySelector('.dk').getBoundingClientRect().right, boxes = [...document.querySelectorAll('.dk aside > div')].map(d => d.getBoundingClientRect()).filter(b => b.height);
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
  return [[...document.querySelectorAll('.dk table, .dk .dk-mix, .dk canvas')].every(t => t.getBoundingClientRect().right <= right), boxes.every((a, i) => boxes.every((b, j) => i >= j || apart(a, b)))]; }"""


@pytest.mark.parametrize("width", [slowly(1440), 1024, slowly(700)])
def test_long_names_and_tables_stay_inside_and_apart(opened, shipped, width):
    tab = opened(AttentionExplorer(renamed(shipped), {"a": LONG, "b": LONG + " again"}).page(), width, 768)
    assert tab.evaluate(INSIDE) == [True, True] and tab.evaluate("document.documentElement.scrollWidth") <= width
    assert LONG in tab.get_attribute(".dk-shares th:nth-child(2)", "title")


@pytest.mark.parametrize("width", [slowly(1024), 700])
def test_words_and_cameras_fit_on_one_small_screen(opened, shipped, width):
    "700: what JupyterLab leaves of 1024 × 768; 640 high without its bars."
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page(), width, 768)
    top = tab.evaluate("document.querySelector('.dk-words').getBoundingClientRect().top")
    bottom = view(tab, "view.canvas.getBoundingClientRect().top + view.panels[0].y + view.panels[0].height")
    assert bottom - top < 640
    assert view(tab, "view.panels.slice(0, 2).every(p => view.canvas.getBoundingClientRect().top + scrollY + p.y + p.boxes[0].h < 500)")  # the first row of both models


def test_heads_share_one_scale_unless_one_asks_otherwise(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student", "layersA": [6], "layersB": [2], "head": 0, "norm": "row", "rows": [len(shipped.tokens) - 3]}).page())
    tops = []
    for head in range(4):
        view(tab, f"view.change({{head: {head}}}, true)")
        tops.append(view(tab, "view.top"))
    view(tab, "view.change({common: false}, true)")
    own = [view(tab, f"(view.change({{head: {head}}}, true), view.top)") for head in range(4)]
    assert len(set(tops)) == 1 and len(set(own)) == 4 and max(own) <= tops[0]


def test_pictures_keep_their_form(opened):
    pictures = {"wide": Image.new("RGB", (160, 90)), "tall": Image.new("RGB", (90, 120))}
    bundle = B.bundle_of(["a"], {"m": {0: np.full((1, 8), 0.1)}}, pictures)
    tab = opened(AttentionExplorer(bundle).page())
    boxes = view(tab, "view.panels[0].boxes.map(b => b.h / b.w)")
    assert boxes == pytest.approx([90 / 160, 120 / 90], rel=1e-3)
    assert view(tab, "view.panels[0].boxes.every(b => b.y + b.h <= view.panels[0].height + 1 && b.x + b.w <= view.panels[0].width + 1)")


def test_every_object_is_scored_and_named(opened):
    things = [B.SceneObject(f"thing {i}", i % 2, (0.03 * i, 0.5)) for i in range(30)]
    bundle = replace(known(), objects=tuple(things))
    tab = opened(AttentionExplorer(bundle, {"a": "coarse", "b": "fine", "mode": "all"}).page())
    assert tab.eval_on_selector_all("tr[data-object]", "rows => rows.length") == 30 and "30 objects" in tab.inner_text(".dk aside")
    drawn = tab.evaluate(WRITTEN)
    assert {f"thing {i}" in drawn or str(i + 1) in drawn for i in range(30)} == {True} and "thing 0" in drawn


def test_labels_say_what_they_are_parts_of(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    assert tab.inner_text("label:has(input[type=range])").strip() == "strength" and "in what is on the pictures" in tab.inner_text(".dk aside") and "parts of the whole row" in tab.inner_text(".dk aside") and view(tab, "view.ofRow()") == " of row"
    view(tab, "view.change({norm: 'pictures'}, true)")
    assert "parts of the whole row" not in tab.inner_text(".dk aside") and view(tab, "view.ofRow()") == ""


def differ(one, other): return np.asarray(one).shape != np.asarray(other).shape or not np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("more", [{"mode": "a"}, {"mode": "b"}, {"mode": "difference"}, {"layout": "top-down"}, {"colours": "cividis"}, {"objects": False}, {"mode": "difference", "objects": False}, {"sinks": True}, {"head": 3, "common": False}], ids=str)
def test_a_still_picture_keeps_to_its_view(shipped, more):
    at = {"preset": "planning", "rows": [len(shipped.tokens) - 3]}
    plain = {**at, **({"head": 3} if "common" in more else {"mode": "difference"} if len(more) > 1 else {})}
    assert differ(AttentionExplorer(shipped, plain).picture(80), AttentionExplorer(shipped, {**at, **more}).picture(80))


@pytest.mark.parametrize(("more", "whole"), [({"head": 3}, True), ({"norm": "row"}, False), ({"head": 3, "norm": "row"}, False)], ids=str)
def test_a_still_picture_draws_the_numbers_of_its_view(shipped, monkeypatch, more, whole):
    "Not only its captions change."
    drawn = []
    monkeypatch.setattr("drivekd.workbench.explorers.teacher_student", lambda photos, teacher, *rest: drawn.append(joined(rest[-1].of(teacher))) or photos["CAM_FRONT"])
    AttentionExplorer(shipped, {"preset": "planning", "rows": [len(shipped.tokens) - 3], **more}).picture(80)
    row = shipped.values("planning", 6, head=more.get("head"))[-3]
    assert drawn == [pytest.approx((row / row.sum() if whole else row).tolist(), abs=1e-6)] and row.sum() < 0.999  # so that both norms differ


def test_a_still_picture_may_be_small(shipped):
    for width in (1, 5, 10): assert AttentionExplorer(shipped, {"preset": "planning"}).picture(width).height > 3 * width


def test_a_still_picture_of_a_difference_says_when_a_side_is_missing(shipped):
    small = B.pick(shipped, methods=("attention", "rollout"))
    lone = replace(small, maps=tuple(m for m in small.maps if not (m.model == "student" and m.method == "rollout")))
    at = {"a": "planning", "b": "student", "method": "rollout"}
    bare = AttentionExplorer(lone, {**at, "mode": "b"}).picture(80)
    assert not differ(AttentionExplorer(lone, {**at, "mode": "difference"}).picture(80), bare) and differ(AttentionExplorer(lone, {**at, "mode": "a"}).picture(80), bare)


def test_a_model_without_the_method_is_named_in_the_same_words(opened, shipped):
    lone = replace(shipped, maps=tuple(m for m in shipped.maps if not (m.model == "student" and m.method == "rollout")))
    explorer, why = AttentionExplorer(lone, {"a": "planning", "b": "student", "method": "rollout"}), "student: was not recorded by this method; choose another"
    assert why in explorer.summary() and why in opened(explorer.page()).inner_text(".dk-readout")


def test_a_rollout_offers_no_layers_and_no_heads(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"a": "planning", "b": "student"}).page())
    shown = lambda: [tab.is_visible(f"label.dk-field:has-text('{name}') select") for name in ("layer", "with", "head")]
    assert shown() == [True, True, True]
    tab.select_option("label:has-text('method') select", "rollout")
    assert [tab.evaluate(f"document.querySelector('.dk').view.ui.{name}.node.offsetParent !== null") for name in ("layersA", "layersB", "head")] == [False] * 3


def asking(shipped, models=None, view=None):
    "The page of a widget whose kernel answers."
    options = json.dumps({"asks": True, **({"models": models} if models is not None else {})})
    return P.page("widget", P.front("attention"), shipped.to_bytes(), {}).replace(P._BOOT, """
      fromBase64(document.getElementById("dk-data").textContent).then(bytes => {
        const sent = globalThis.sent = [];
        const ask = async message => { sent.push(message); return {before: {reply: "green", loss: 0.1}, after: {reply: "blue", loss: 0.03}}; };
        explore(document.getElementById("dk-host"), {bytes, options: OPTIONS, kernel: true, get: () => (VIEW), set() {}, on() {}, ask});
      });""".replace("OPTIONS", options).replace("VIEW", json.dumps(view or {"preset": "planning"})))


def test_several_patches_are_greyed_at_once(opened, shipped):
    tab = opened(asking(shipped))
    at = lambda p, x, y: view(tab, f"(() => {{ const r = view.canvas.getBoundingClientRect(), p = view.panels[0], b = p.boxes[{p}]; return [r.x + p.x + b.x + b.w * {x}, r.y + p.y + b.y + b.h * {y}]; }})()")
    tab.mouse.click(*at(0, 0.3, 0.3))
    tab.keyboard.down("Shift"), tab.mouse.click(*at(0, 0.6, 0.6)), tab.mouse.click(*at(1, 0.5, 0.5)), tab.keyboard.up("Shift")
    tab.click("text=Grey these 3 patches")
    tab.wait_for_selector("text=becomes")
    assert [b[0] for b in tab.evaluate("sent[0].boxes")] == [0, 0, 1] and "3 patches are kept" in tab.inner_text(".dk-readout")
    tab.keyboard.down("Shift"), tab.mouse.click(*at(0, 0.6, 0.6)), tab.keyboard.up("Shift")
    assert view(tab, "view.chosen().length") == 2
    tab.mouse.click(*at(1, 0.2, 0.2))
    assert view(tab, "view.chosen().length") == 1


def test_enter_keeps_a_patch_and_arrows_choose_the_next(opened, shipped):
    tab = opened(asking(shipped))
    tab.focus("canvas"), tab.keyboard.press("ArrowRight"), tab.keyboard.press("Enter")
    first = view(tab, "view.state.patch")
    tab.keyboard.press("ArrowRight"), tab.keyboard.press("ArrowRight")
    kept = view(tab, "view.chosen()")
    assert len(kept) == 2 and kept[0] == first != kept[1]
    tab.keyboard.press("Escape")
    assert view(tab, "view.chosen()") == []


def test_only_models_that_the_kernel_has_are_asked(opened, shipped):
    tab = opened(asking(shipped, ["planning"], {"preset": "planning", "b": "student", "mode": "b"}))
    tab.focus("canvas"), tab.keyboard.press("ArrowRight")
    assert not tab.is_visible(".dk-ablate") and "The kernel has no student to ask again; it has planning" in tab.inner_text(".dk-result")
    tab.keyboard.press("1")
    assert tab.is_visible(".dk-ablate")
    one = AttentionExplorer(shipped, ablate=type("Ablate", (), {"models": ("planning",)})())
    with pytest.raises(B.BundleError, match="that is there \\(planning\\)"): one.answer({"kind": "ablate", "model": "student", "boxes": [[0, 0, 0, 0.5, 1]]})


def test_every_pair_of_every_preset_is_the_one_of_the_loss(opened, shipped):
    tab = opened(AttentionExplorer(shipped).page())
    for plan in (p for p in shipped.plans if p.capability == p.teacher):
        tab.click(f"button[data-value={plan.capability}]"), tab.focus(".dk-token[tabindex='0']")
        for i, (student, teachers) in enumerate(plan.pairs):
            if i: tab.keyboard.press("]")
            text = tab.inner_text(".dk-layers")
            assert view(tab, "[view.state.layersA, view.state.layersB]") == [list(teachers), [student]] and f"student layer {student + 1} of 4" in text and ", ".join(str(l + 1) for l in teachers) + " of 8" in text and plan.distance in text
            assert len(plan.pairs) == 1 or f"pair {i + 1} of {len(plan.pairs)}" in text
            assert ("its columns of pictures" in text) == (plan.region == "full")  # bundles hold no other columns


def test_a_second_press_sorts_the_other_way(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    values = view(tab, "view.distances.map(d => d.kl)")
    shown = lambda: [values[r] for r in tab.eval_on_selector_all(".dk-distances tr[data-row]", "lines => lines.map(l => Number(l.dataset.row))")]
    tab.click("button[data-sort=kl]")
    assert shown() == sorted(values, reverse=True) and tab.get_attribute("th:has(button[data-sort=kl])", "aria-sort") == "descending"
    tab.click("button[data-sort=kl]")
    assert shown() == sorted(values) and tab.get_attribute("th:has(button[data-sort=kl])", "aria-sort") == "ascending"


def test_rows_that_were_put_together_are_marked(opened, shipped):
    bundle = replace(shipped, models=tuple(replace(m, carried=(3, 4) if m.name == "planning" else ()) for m in shipped.models))
    explorer = AttentionExplorer(bundle, {"a": "planning", "b": "student", "rows": [3]})
    tab = opened(explorer.page())
    assert tab.eval_on_selector_all(".dk-carried", "chips => chips.map(c => Number(c.dataset.row))") == [3, 4]
    assert "planning teacher cuts 2 of 71 tokens otherwise" in tab.inner_text(".dk-cut") and "it cuts this text otherwise" in explorer.summary()
    assert B.from_bytes(bundle.to_bytes()).to_bytes() == bundle.to_bytes()


# --- a bundle of one model


def own(layers=(0, 5), **more):
    "As a reader's own arrays come: one map a layer, no heads."
    rng = np.random.default_rng(0)
    return B.bundle_of("what is ahead ? a car".split(), {"llava": {l: rng.dirichlet(np.ones(9), 6)[:, :8] for l in layers}}, {n: Image.new("RGB", (64, 64)) for n in ("front", "back")}, answer_from=4, **more)


def test_a_page_of_one_model_opens_whatever_mode_is_asked_for(opened):
    explorer = AttentionExplorer(partial(), {"mode": "difference", "colours": "cividis"})
    assert explorer.view == {"colours": "cividis"}
    assert view(opened(explorer.page()), "view.state.mode") == "a"
    tab = opened(P.page("x", P.front("attention"), partial().to_bytes(), {"view": {"mode": "difference", "layersA": []}}))  # a view that nobody checked
    assert view(tab, "[view.state.mode, view.state.layersA]") == ["a", [0]]
    told = view(tab, "(() => { let out; view.channel.set = told => { out = told; }; view.tell(); return out; })()")
    assert AttentionExplorer(partial(), told).view == {k: v for k, v in told.items() if k != "mode"} and told["layersA"] == [0]  # what the page tells its kernel


def test_a_method_by_which_no_model_of_the_view_was_recorded_is_refused():
    with pytest.raises(B.BundleError, match="`method` of a view"): AttentionExplorer(partial(), {"method": "rollout"})


@pytest.mark.parametrize("at", [{}, {"a": "coarse", "b": "fine"}], ids=str)
def test_a_view_of_two_models_that_is_narrowed_to_one_opens(opened, at):
    small = AttentionExplorer(known(), {"mode": "all", **at}).static(layers={"coarse": [0]})
    assert view(opened(small.html), "view.state.mode") == "a"


def test_the_toolbar_of_one_model_holds_controls_and_no_words_of_the_program(opened):
    tab = opened(AttentionExplorer(own()).page())
    assert tab.eval_on_selector_all(".dk *", "all => all.flatMap(n => [...n.childNodes]).filter(n => n.nodeType === 3 && /^(false|true|null|undefined)$/.test(n.data.trim())).length") == 0 and tab.inner_text(".dk-controls").startswith("1 model")


@pytest.mark.parametrize(("depth", "said"), [({}, ["1", "6"]), ({"llava": 32}, ["1 of 32", "6 of 32"])], ids=["unknown", "given"])
def test_what_nobody_said_of_a_model_is_not_invented(opened, depth, said):
    "Arrays of layers 1 and 6 do not say how many layers and heads their model has."
    explorer = AttentionExplorer(own(depth=depth))
    tab = opened(explorer.page())
    assert tab.eval_on_selector_all(".dk-controls label:has-text('layer') option", "all => all.map(o => o.textContent)") == said
    assert view(tab, "view.caption('a')") == "llava, layer 6" and explorer.summary().split(". ")[1].startswith("llava, layer 6: ")
    tab.click("text=About")
    about = tab.inner_text(".dk-over")
    assert "heads" not in about and ("32 layers, 8 vision tokens" in about) == bool(depth) and "8 vision tokens" in about
    assert "llava: layers 1, 6;" in repr(explorer.bundle)


def test_models_of_unknown_depth_stand_beside_each_other(opened):
    both = {l: np.full((1, 4), 0.2) for l in (0, 5)}
    bundle = B.bundle_of(["a"], {"one": both, "two": {l: m for l, m in zip((2, 3, 11), [both[0]] * 3)}}, {"p": Image.new("RGB", (8, 8))}, depth={"one": 12})
    explorer = AttentionExplorer(bundle, {"a": "one", "b": "two", "layersA": [5]})
    assert view(opened(explorer.page()), "view.state.layersB") == [3] and "two, layer 4: " in explorer.summary()


# --- one rule in Python and in the browser


def deep():
    "A teacher of 12 layers recorded at the first, a student of 6 recorded at three; no plan."
    even = lambda layers: {l: np.full((2, 4), 0.2) for l in layers}
    return B.bundle_of(["a", "b"], {"t": even([0]), "s": even([0, 1, 5])}, {"p": Image.new("RGB", (8, 8))}, roles={"t": "teacher", "s": "student"}, depth={"t": 12, "s": 6})


@pytest.mark.parametrize(("at", "layers"), [({}, [0]), slowly({"a": "t", "b": "s"}, [0]), slowly({"a": "s", "b": "s", "layersA": [1]}, [1]), ({"layersB": [5]}, [5])], ids=str)
def test_the_second_model_begins_at_the_depth_of_the_first(opened, at, layers):
    explorer = AttentionExplorer(deep(), at)
    assert view(opened(explorer.page()), "view.state.layersB") == layers
    assert ("layer " + ", ".join(str(l + 1) for l in layers)) in explorer.summary().split("; ")[1].split(":")[0]


def test_what_a_new_view_does_not_name_stays(shipped):
    explorer = AttentionExplorer(shipped, {"rows": [3], "layout": "top-down"})
    explorer._keep({"mode": "b"})
    assert explorer.view == {"rows": [3], "layout": "top-down", "mode": "b"}
    explorer._keep({"a": "planning", "b": "student", "layersA": [0], "layersB": [0]})
    explorer._keep({"a": "perception"})
    assert explorer.view == {"rows": [3], "layout": "top-down", "mode": "b", "a": "perception", "b": "student"}
    explorer._keep({"layersA": [0], "method": "attention"})
    explorer._keep({"method": "rollout"})
    assert explorer.view["method"] == "rollout" and "layersA" not in explorer.view
    explorer._keep({"preset": "reasoning"})
    assert explorer.view == {"rows": [3], "layout": "top-down", "mode": "b", "b": "student", "preset": "reasoning"}


def test_on_an_even_map_no_box_beats_another(opened):
    "Only rounding tells boxes of one size apart."
    bundle = B.bundle_of(["a"], {"m": {0: np.full((1, 7 * 7 * 3), 1 / 147)}}, {n: Image.new("RGB", (20, 20)) for n in "pqr"})
    tab = opened(AttentionExplorer(bundle).page())
    for box in ([0.1, 0.2, 0.43, 0.71], [0.5, 0.5, 0.9, 0.6], [0, 0, 0.3, 0.3]):
        assert view(tab, f"view.score(view.now.a, {box}, 1).beats") == pytest.approx(0.5)


@pytest.mark.parametrize("box", [[True, 0, 0, 1, 1], [0.0, 0, 0, 1, 1], [0, 0.5, 0, 0.5, 1], [0, 0.6, 0, 0.5, 1], [0, 0, 1, 1, 0], [0, False, 0, 1, 1], [0, 0, 0, 1]], ids=str)
def test_boxes_to_grey_are_boxes(shipped, box):
    asked = []
    explorer = AttentionExplorer(shipped, ablate=lambda *a: asked.append(a))
    with pytest.raises(B.BundleError): explorer.answer({"kind": "ablate", "model": "student", "boxes": [box]})
    assert not asked


@pytest.mark.slow
def test_two_views_of_a_page_are_described_by_their_own_words(opened, shipped):
    script = P._BOOT.rstrip(";") + '.then(() => fromBase64(document.getElementById("dk-data").textContent)).then(bytes => explore(document.body.appendChild(document.createElement("div")), pageChannel(bytes, {view: {}})))'
    tab = opened(AttentionExplorer(shipped).page().replace(P._BOOT, script))
    tab.wait_for_function("document.querySelectorAll('[data-ready=true]').length === 2")
    assert tab.evaluate("new Set([...document.querySelectorAll('canvas[aria-describedby]')].map(c => c.getAttribute('aria-describedby')).filter(i => document.getElementById(i))).size") == 2


# --- what a reader sees and hears of it


WRITTEN = """() => { const v = document.querySelector('.dk').view, said = [], pen = v.canvas.getContext('2d'), write = pen.fillText;
  pen.fillText = function (text, ...at) { said.push(text); write.call(this, text, ...at); }; v.draw(pen, v.shape.ratio); delete pen.fillText; return said; }"""


@pytest.mark.parametrize(("mode", "bars"), [("a", (True, False)), slowly("difference", (False, True)), ("all", (True, True))])
def test_every_kind_of_map_that_is_shown_has_its_bar_of_colours(opened, shipped, mode, bars):
    said = opened(AttentionExplorer(shipped, {"preset": "planning", "mode": mode}).page()).evaluate(WRITTEN)
    assert tuple(any(words in text for text in said) for words in (") of the row, per", ") difference, points of the row, per")) == bars


def test_what_is_beyond_the_scale_is_said_and_dotted(opened):
    "One patch of 512 holds 36 % of the row, the scale ends far below."
    row = np.full((1, 512), 0.4 / 511)
    row[0, 300:303] = 0.36, 0.02, 0.01
    bundle = B.bundle_of(["a"], {"m": {0: row}, "even": {0: np.full((1, 512), 1 / 512)}}, {n: Image.new("RGB", (64, 64), "#fff") for n in "pq"})
    tab = opened(AttentionExplorer(bundle, {"a": "m", "b": "even", "norm": "row", "mode": "all"}).page())
    whole, apart = [next(text for text in tab.evaluate(WRITTEN) if "(dots: more" in text and ("difference" in text) == second) for second in (False, True)]
    assert "+ (dots: more, up to 36" in whole and "+ (dots: more, up to \u221235.5) difference" in apart
    dotted = """(() => { const out = [], pen = view.canvas.getContext('2d'), fill = pen.fillRect; let at = null;
      pen.fillRect = function (...box) { if (pen.fillStyle === '#000000') out.push(box); fill.apply(this, box); }; view.draw(pen, view.shape.ratio); delete pen.fillRect; return out; })()"""
    found, expected = view(tab, dotted), view(tab, "['a', 'b', 'difference'].map(k => { const c = view.now[k]; return c.filter(x => Math.abs(x) > (k === 'difference' ? view.topDifference : view.top)).length; })")
    x, y, *_ = found[0]
    panel = view(tab, "(({x, y, boxes}) => [x + boxes[1].x, y + boxes[1].y, boxes[1].w, boxes[1].h])(view.panels[0])")
    column, line = (300 - 256) % 16, (300 - 256) // 16
    assert len(found) == sum(expected) > 0 and expected[1] == 0 and [x + 1, y + 1] == pytest.approx([panel[0] + (column + .5) * panel[2] / 16, panel[1] + (line + .5) * panel[3] / 16], abs=1e-3)


def test_a_long_table_of_objects_fits_beside_the_pictures(opened, shipped):
    "Sixty objects with long names; the gaze is all on one of them."
    objects = [B.SceneObject(f"a very long name of object {i}", i % 6, (0.5, 0.5), (0.4, 0.4, 0.42, 0.42)) for i in range(60)]
    tab = opened(AttentionExplorer(replace(shipped, objects=tuple(objects)), {"preset": "planning"}).page(), 1440, 900)
    view(tab, "(document.querySelector('.dk-scroll').style.width = '315px', view.scores.querySelectorAll('td:nth-child(n+3)').forEach(cell => { if (cell.textContent.includes('×')) cell.textContent = '×123.4'; }))")
    wide, there = view(tab, "(({scrollWidth, clientWidth}) => [scrollWidth, clientWidth])(document.querySelector('.dk-scroll'))")
    names = tab.eval_on_selector_all(".dk-scores .dk-link", "all => all.map(b => b.getBoundingClientRect().width)")
    assert wide == there == 315 and min(names) > 30


def test_the_table_of_tokens_is_one_stop_of_the_tab_key(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    stops = lambda: tab.eval_on_selector_all(".dk-distances [data-focus^=row]", "all => all.filter(b => b.tabIndex === 0).map(b => b.dataset.focus)")
    assert stops() == ["row 0"]
    tab.focus("[data-focus='row 0']")
    for key, name in (("ArrowDown", "row 1"), ("ArrowDown", "row 2"), ("ArrowUp", "row 1"), ("End", f"row {len(shipped.tokens) - 1}"), ("Home", "row 0"), ("ArrowUp", "row 0"), ("ArrowDown", "row 1")):
        tab.keyboard.press(key)
        assert active(tab) == name and stops() == [name]
    tab.keyboard.press("Enter")
    assert view(tab, "view.state.rows") == [1] and active(tab) == "row 1"
    tab.click("[data-focus='sort kl']")
    assert stops() == ["row 1"]


def test_a_long_reply_can_be_opened_and_stays_open(opened, shipped):
    bundle = replace(shipped, models=tuple(replace(m, reply={"planning": "Brake.", "student_agp": "Keep going. " * 40}.get(m.name, "")) for m in shipped.models))
    tab = opened(AttentionExplorer(bundle, {"preset": "planning"}).page())
    high = lambda: tab.eval_on_selector_all(".dk-replies bdi", "all => all.map(b => b.getBoundingClientRect().height)")
    assert tab.eval_on_selector_all(".dk-replies details", "all => all.map(d => d.className)") == ["", "dk-long"]
    short, closed = high()
    tab.click(".dk-long summary"), tab.keyboard.press("c")
    assert closed == short and high()[1] > 2 * short


def test_a_single_head_is_not_what_the_loss_compares(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning"}).page())
    pressed = lambda: tab.get_attribute("button[data-value=planning]", "aria-pressed")
    held = [pressed()]
    layers = view(tab, "[view.state.layersA, view.state.layersB]")
    tab.select_option("label:has-text('head') select >> nth=0", "2")
    assert [*held, pressed()] == ["true", "false"] and tab.inner_text(".dk-layers") == "" and view(tab, "[view.state.layersA, view.state.layersB]") == layers
    tab.click("button[data-value=planning]"), tab.focus("canvas"), tab.keyboard.press("h")
    assert pressed() == "false" and view(tab, "view.state.head") == 0
    assert view(opened(AttentionExplorer(shipped, {"preset": "planning", "head": 2}).page()), "[view.state.preset, view.state.head]") == [None, 2]


def test_what_is_measured_in_passing_leaves_the_state_as_it_was(opened, shipped):
    tab = opened(AttentionExplorer(shipped, {"preset": "planning", "head": 2}).page())
    tried = view(tab, "(() => { const was = view.state; try { view.assuming({norm: 'pictures', head: 0}, () => { throw new Error('stop'); }); } catch { } return [view.state === was, view.state.norm, view.state.head]; })()")
    assert tried == [True, "row", 2]


def test_a_kernel_that_does_not_answer_is_a_sentence_with_a_way_out(opened, shipped):
    tab = opened(P.page("widget", P.front("attention"), shipped.to_bytes(), {}).replace(P._BOOT, """
      fromBase64(document.getElementById("dk-data").textContent).then(bytes => {
        const traits = {data: new DataView(bytes.buffer), options: {asks: true, patience: 0.2}, view: {preset: "planning"}};
        const listeners = {}, sent = [], late = i => listeners["msg:custom"]({id: sent[i].id, before: {reply: "green", loss: 0.1}, after: {reply: `blue ${i}`, loss: 0.03}});
        Object.assign(globalThis, {sent, late});
        explore(document.getElementById("dk-host"), widgetChannel({get: k => traits[k], set() {}, save_changes() {}, on: (k, f) => { listeners[k] = f; }, send: m => sent.push(m)}));
      });"""))
    tab.focus("canvas"), tab.keyboard.press("ArrowRight"), tab.click(".dk-ablate")
    tab.wait_for_selector("text=no answer within 0.2 seconds")
    assert "run the cell of this view again" in tab.inner_text(".dk-result")
    tab.evaluate("late(0)")
    tab.wait_for_selector("text=becomes \u201cblue 0\u201d")
