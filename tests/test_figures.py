"""Figures say what the numbers say: gaps stay gaps, scales are common, text is escaped, nothing is loaded from outside."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from drivekd.data.jsonfiles import read_log
from drivekd.study.rasters import resample
from drivekd.workbench import figures as F

CAPS = ("perception", "reasoning", "planning")
SIX = [c for row in F.PANORAMA for c in row]


def row(step, agp=True, **extra):
    base = {"step": step, "losses": {"ce": 1.0 / step}}
    if not agp:
        return base
    c = np.eye(4)
    c[0, 1] = c[1, 0] = -0.5
    return (
        base
        | {
            "losses": {"ce": 1.0, "perception": 0.1},
            "terms": ["ce", *CAPS],
            "merged": list(CAPS),
            "cosines": c.tolist(),
            "cosines_stage1": np.eye(4).tolist(),
            "cosines_merged": np.eye(3).tolist(),
            "cosines_stage2": np.eye(3).tolist(),
            "fired_stage1": [True, False, False],
            "fired_stage2": [[False, False, False], [False, False, True], [False, False, False]],
        }
        | extra
    )


def curves(fig, panel, name=None):
    return [t for t in fig.data if t.mode == "lines" and t.xaxis == panel and (name is None or (t.name or "").startswith(name))]


def photo(colour=(120, 120, 120), size=(64, 36)):
    return Image.new("RGB", size, colour)


# --- curves


def test_missing_steps_break_the_line():
    x, y = F.with_gaps([1, 2, 3, 9, 10], [1, 2, 3, 4, 5])
    assert y == [1, 2, 3, None, 4, 5] and x[3] == 4


def test_regular_logging_every_ten_steps_is_no_gap():
    assert F.with_gaps([10, 20, 30], [1, 2, 3])[1] == [1, 2, 3]


def test_running_mean_never_fills_a_missing_value():
    assert F.running_mean([1.0, None, 3.0], 3) == [1.0, None, 2.0]


def test_a_run_without_a_term_is_absent_from_its_panel():
    fig = F.loss_curves({"CE only": [row(n, agp=False) for n in range(1, 9)], "AGP": [row(n) for n in range(1, 9)]})
    assert [a.text for a in fig.layout.annotations] == ["ce", "perception"]
    assert len(curves(fig, "x")) == 4 and len(curves(fig, "x2")) == 2


def test_a_run_has_one_colour_in_all_panels():
    fig = F.loss_curves({"a": [row(n) for n in range(1, 9)], "b": [row(n) for n in range(1, 9)]})
    colours = {g: {t.line.color for t in fig.data if t.legendgroup == g} for g in ("a", "b")}
    assert all(len(c) == 1 for c in colours.values()) and colours["a"] != colours["b"]


def test_long_runs_are_thinned_to_a_bounded_number_of_points():
    fig = F.loss_curves({"long": [row(n, agp=False) for n in range(1, 30_001)]})
    assert all(1000 <= len(t.x) <= F.POINTS for t in fig.data)
    assert None not in fig.data[0].y  # thinning is not a gap


def test_log_without_losses_is_one_sentence():
    with pytest.raises(ValueError, match="no row of the log holds a loss"):
        F.loss_curves({"a": [{"step": 1}]})


# --- cosines


def test_cosine_panels_show_the_logged_numbers_before_and_after():
    fig = F.cosine_timelines([row(n) for n in range(1, 6)])
    before, after = (next(t for t in curves(fig, "x", n)) for n in ("before", "after"))
    assert set(before.y) == {-0.5} and set(after.y) == {0.0}


def test_marks_stand_at_the_steps_where_a_projection_fired():
    rows = [row(1), row(2, fired_stage1=[False] * 3), row(3)]
    marks = {t.xaxis: list(t.x) for t in F.cosine_timelines(rows).data if t.mode == "markers"}
    assert marks["x"] == [1, 3] and marks["x2"] == []  # ce·perception, ce·reasoning
    assert marks["x4"] == [] and marks["x6"] == [1, 2, 3]  # perception·reasoning, reasoning·planning


def test_titles_say_how_often_it_fired():
    rows = [row(1), row(2, fired_stage1=[False] * 3)]
    assert F.cosine_timelines(rows).layout.annotations[0].text == "stage 1: ce · perception, fired 50&#37;"


def test_a_step_without_a_term_is_a_gap_there_and_only_there():
    lacking = row(2) | {
        "terms": ["ce", "reasoning"],
        "merged": ["reasoning"],
        "cosines": np.eye(2).tolist(),
        "cosines_stage1": np.eye(2).tolist(),
        "cosines_merged": [[1.0]],
        "cosines_stage2": [[1.0]],
        "fired_stage1": [False],
        "fired_stage2": [[False]],
    }
    fig = F.cosine_timelines([row(1), lacking, row(3)])
    assert curves(fig, "x", "before")[0].y == (-0.5, None, -0.5) and curves(fig, "x2", "before")[0].y == (0.0, 0.0, 0.0)


def test_single_teacher_has_one_panel():
    one = row(1) | {
        "terms": ["ce", "planning"],
        "merged": ["planning"],
        "cosines": np.eye(2).tolist(),
        "cosines_stage1": np.eye(2).tolist(),
        "cosines_merged": [[1.0]],
        "cosines_stage2": [[1.0]],
        "fired_stage1": [False],
        "fired_stage2": [[False]],
    }
    assert [a.text for a in F.cosine_timelines([one]).layout.annotations if a.text] == ["stage 1: ce · planning, fired 0&#37;"]


def test_without_an_anchor_all_gradients_meet_in_stage_2():
    flat = {
        "step": 1,
        "terms": ["ce", "planning"],
        "merged": ["ce", "planning"],
        "cosines": np.eye(2).tolist(),
        "cosines_stage1": np.eye(2).tolist(),
        "cosines_merged": [[1, -0.3], [-0.3, 1]],
        "cosines_stage2": np.eye(2).tolist(),
        "fired_stage1": [False] * 2,
        "fired_stage2": [[False, True], [False] * 2],
    }
    fig = F.cosine_timelines([flat])
    assert F.cosine_pairs([flat]) == ([], [("ce", "planning")]) and fig.layout.annotations[0].text.startswith(
        "stage 2: ce · planning, fired 100"
    )


def test_own_anchors_are_paired_with_their_followers():
    own = {"step": 1, "terms": ["ce:a", "ce:b", "a", "b"], "merged": ["a", "b"], "cosines": np.eye(4).tolist()}
    assert F.cosine_pairs([own]) == ([("ce:a", "a"), ("ce:b", "b")], [("a", "b")])


def test_several_combinations_in_one_step_are_no_gap():
    assert F.with_gaps([1, 1, 2, 2, 3, 3], [1, 2, 3, 4, 5, 6])[1] == [1, 2, 3, 4, 5, 6]


def test_a_run_without_cosines_is_one_sentence():
    with pytest.raises(ValueError, match="cosines"):
        F.cosine_timelines([row(1, agp=False)])


# --- reading


def test_torn_last_line_is_left_out_and_any_other_is_an_error(tmp_path):
    log = tmp_path / "t.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [r["step"] for r in read_log(log)] == [1, 2]
    log.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_log(log)


# --- bars


def test_bars_carry_rates_intervals_and_counts():
    fig = F.accuracy_bars({"m": {"perception": (30, 60), "planning": (0, 0)}}, chance=0.25)
    bar = fig.data[0]
    assert bar.y == (0.5, None) and np.isclose(bar.error_y.array[0], 0.1226, atol=1e-3) and tuple(bar.customdata[0]) == (30, 60)


def test_hostile_names_reach_plotly_escaped():
    name = "<c1,CAM_FRONT,0.4,0.6> $x$ %{y}"
    figs = F.accuracy_bars({name: {name: (1, 2)}}), F.loss_curves({name: [{"step": 1, "losses": {name: 1.0}}]})
    for fig in figs:
        assert name not in json.dumps(fig.to_plotly_json(), default=str) and "&lt;c1" in fig.to_json()


# --- pages


def test_figure_html_has_no_library_no_address_and_is_repeatable():
    piece, again = (F.figure_html(F.accuracy_bars({"m": {"perception": (30, 60)}})) for _ in range(2))
    assert piece == again and len(piece) < 20_000 and "http" not in piece and "cdn" not in piece


def test_figures_are_plain_figures():
    assert type(F.loss_curves({"a": [row(1)]})) is go.Figure and type(F.cosine_timelines([row(1)])) is go.Figure


# --- attention


def test_resampling_keeps_the_mass_of_every_region():
    grid = np.random.default_rng(0).random((6, 9))
    for shape in ((6, 9), (12, 18), (5, 7), (1, 1)):
        out = resample(grid, shape)
        assert out.shape == shape and np.isclose(out.sum(), grid.sum()) and (out >= 0).all()
    assert np.allclose(resample(resample(grid, (12, 18)), (6, 9)), grid)


def test_one_bright_cell_lights_its_rectangle_and_nothing_else():
    grid = np.zeros((4, 8))
    grid[1, 6] = 1
    before, after = np.asarray(F._muted(photo())), np.asarray(F.camera_overlay(photo(), grid), float)
    changed = np.abs(after - before).sum(-1) > 3
    assert changed[9:18, 48:56].all() and changed.sum() == 9 * 8


def test_a_scale_that_ends_below_the_strongest_cell_says_how_much_that_holds(monkeypatch):
    said, grid = [], np.full((20, 20), 0.001)
    monkeypatch.setattr(F, "_scale", lambda width, colours, low, high, text: said.append(text) or Image.new("RGB", (width, 4)))
    photo, even = {"CAM_FRONT": Image.new("RGB", (40, 40))}, {"CAM_FRONT": np.full((20, 20), 1 / 400)}
    grid[3, 4] = 1 - 0.001 * 399
    F.six_cameras(photo, {"CAM_FRONT": grid}), F.difference(photo, {"CAM_FRONT": grid}, even), F.six_cameras(photo, even)
    assert [text.split("%")[0] for text in said] == ["or more, up to 60 ", "or more, up to -60 ", "of the attention on the images, per cell"]


def test_common_scale_makes_weaker_maps_weaker():
    grid = np.ones((2, 2))
    strong, weak = (np.asarray(F.camera_overlay(photo(), g, vmax=1.0), float) for g in (grid, grid / 4))
    base = np.asarray(photo(), float)
    assert np.abs(strong - base).mean() > 2 * np.abs(weak - base).mean()


def test_difference_is_orange_for_more_blue_for_less_and_nothing_for_equal():
    out = np.asarray(F.difference_overlay(photo(size=(30, 10)), np.array([[1.0, 0.0, -1.0]])), int)
    assert out[5, 5, 0] > out[5, 5, 2] + 80 and out[5, 25, 2] > out[5, 25, 0] + 80 and np.ptp(out[5, 15]) <= 1


def test_shares_over_all_cameras_sum_to_one():
    shares = F.attention_shares({c: np.full((2, 3), i + 1.0) for i, c in enumerate(SIX)})
    assert np.isclose(sum(g.sum() for g in shares.values()), 1)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.array([[np.nan]]), np.array([[-1.0, 2.0]])])
def test_maps_that_are_no_attention_are_refused(bad):
    with pytest.raises(ValueError, match="attention maps must be"):
        F.attention_shares({"CAM_FRONT": bad})


def test_six_cameras_stand_as_a_panorama_whatever_the_order_given():
    assert F.layout(SIX[::-1]) == F.PANORAMA and F.layout(SIX[:2]) == F.PANORAMA
    images = {c: photo((40 * i, 0, 255 - 40 * i)) for i, c in enumerate(SIX)}
    sheet = np.asarray(F.six_cameras(dict(reversed(images.items())), pane_width=64))
    for i in range(6):
        r, c = divmod(i, 3)
        assert tuple(sheet[r * 42 + 33, c * 70 + 60]) == (40 * i, 0, 255 - 40 * i)


def test_one_camera_is_one_large_pane_and_missing_ones_stay_empty():
    one = F.six_cameras({"CAM_FRONT": photo()}, pane_width=100)
    assert one.size[0] == 200 and abs(one.size[1] - 200 * 36 / 64) < 1
    two = np.asarray(F.six_cameras({"CAM_FRONT": photo(), "CAM_BACK": photo()}, pane_width=100))
    assert two.shape[1] == 312 and tuple(two[40, 90]) == F._EMPTY  # front left was not given


def test_cameras_stand_as_on_the_vehicle_where_that_is_asked_for():
    images = {c: photo((40 * i, 0, 255 - 40 * i)) for i, c in enumerate(SIX)}
    sheet = np.asarray(F.six_cameras(images, pane_width=64, how=F.Drawn(layout="top-down")))
    assert sheet.shape[0] == 3 * 42 - 6 and tuple(sheet[2 * 42 + 33, 70 + 60]) == (40 * 4, 0, 255 - 40 * 4) and (sheet[42 + 33, 70 + 30] == 255).all()


def test_a_title_that_is_too_long_goes_on_in_the_next_line():
    images = {c: photo() for c in SIX}
    low, high = (F.six_cameras(images, title=title, pane_width=64) for title in ("short", "a title of many words that no sheet of two hundred pixels can hold"))
    assert high.width == low.width and high.height >= low.height + 40
    word, long = (F.six_cameras(images, title=f"{'w' * n} end", pane_width=64) for n in (3, 24))
    assert long.width == word.width and long.height == word.height + 20 and (np.asarray(long)[:50, -2:] == 255).all() and (np.asarray(long)[25:50] < 128).any()  # broken, as large as others


def test_parts_of_the_row_stay_what_they_are():
    maps = {"CAM_FRONT": np.full((2, 2), 0.05)}
    assert F.Drawn(of_row=True).of(maps)["CAM_FRONT"].sum() == pytest.approx(0.2) and F.Drawn().of(maps)["CAM_FRONT"].sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="attention maps must be"): F.Drawn(of_row=True).of({"CAM_FRONT": np.zeros((2, 2))})


def test_pictures_of_other_data_sets_are_shown_too():
    assert F.six_cameras({"IMG_1": photo(), "IMG_2": photo()}, pane_width=50).size[0] == 106


def test_teacher_and_student_may_have_different_grids_but_need_the_same_cameras():
    images = {"CAM_FRONT": photo()}
    out = F.teacher_student(images, {"CAM_FRONT": np.eye(4)}, {"Student": {"CAM_FRONT": np.ones((2, 2))}}, pane_width=80)
    assert out.width >= 160
    with pytest.raises(ValueError, match="one map per picture"):
        F.teacher_student(images, {"CAM_FRONT": np.eye(4)}, {"Student": {"CAM_BACK": np.eye(4)}})


def test_tags_are_marked_on_a_difference_too():
    images, maps = {"CAM_FRONT": photo(), "CAM_BACK": photo()}, {"CAM_FRONT": np.eye(4), "CAM_BACK": np.eye(4)}
    plain, marked = (np.asarray(F.teacher_student(images, maps, {"Student": maps}, tags=tags, pane_width=80)) for tags in (None, {"CAM_FRONT": [(.5, .5, "c1")]}))
    third = len(plain) // 3
    assert all((plain[i * third:(i + 1) * third] != marked[i * third:(i + 1) * third]).any() for i in range(3))


@pytest.mark.parametrize("wrong", [{"layout": "sideways"}, {"colours": "jet"}, {"colours": None}], ids=str)
def test_ways_of_drawing_that_do_not_exist_are_one_sentence(wrong):
    with pytest.raises(ValueError, match=r"of a drawing is one of .*, found .*\.$"): F.Drawn(**wrong)


def test_equal_maps_have_no_difference():
    images, maps = {"CAM_FRONT": photo()}, {"CAM_FRONT": np.arange(1.0, 17).reshape(4, 4)}
    first, second = F.common_grid(maps, {"CAM_FRONT": maps["CAM_FRONT"] * 7})
    assert np.allclose(first["CAM_FRONT"], second["CAM_FRONT"])
    assert F.teacher_student(images, maps, {"Student": maps}, pane_width=80)


def test_one_sink_does_not_darken_all_other_cells():
    grid = np.ones((40, 40))
    grid[0, 0] = 1e6
    assert F.common_scale({"CAM_FRONT": grid}) == 1


@pytest.mark.parametrize(("name", "far"), [("viridis", 7), ("cividis", 12)])
def test_colours_are_close_to_the_real_ones(name, far):
    mpl = pytest.importorskip("matplotlib")
    real = mpl.colormaps[name](np.arange(256))[:, :3] * 255
    assert np.abs(F.coloured(np.arange(256) / 255, name).astype(float) - real).max() < far
