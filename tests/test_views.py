"The run dashboard and the question browser: what they read, what they refuse, and how they behave in a browser without a network."
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drivekd.data.problems import DataError
from drivekd.data.records import read_records
from drivekd.distill.runfiles import TELEMETRY
from drivekd.runs import tail as T
from drivekd.runs.dashboard import RunDashboard
from drivekd.workbench import browser as B
from drivekd.workbench.live import reply_to

HOSTILE = ("<s>", "</s>", "<b>", "<image>", "<|im_start|>", "<c1,CAM_FRONT,0.46,0.67>", "</script>", "$x$", "%{x}", "&lt;", "\"'", "\u202eabc", "<img src=x onerror=alert(1)>")


def row(step, **more):
    return {"step": step, "loss": 5 / step, "losses": {"ce": 4 / step, "planning": 1 / step}, "loss_weights": {"ce": 1.0, "planning": 0.5}, "terms": ["ce", "planning"], "merged": ["planning"], "cosines": [[1, -0.5], [-0.5, 1]],
            "cosines_stage1": [[1, 0.0], [0.0, 1]], "fired_stage1": [True], "fired_stage2": [[False]], "ce_share": 0.75, "seconds": step / 2} | more


def write(folder, steps=range(1, 21), status=None, student="agp", **more):
    "A run folder."
    (folder / "checkpoints" / student).mkdir(parents=True)
    (folder / "checkpoints" / student / TELEMETRY).write_text("".join(json.dumps(row(s, **more)) + "\n" for s in steps))
    if status: (folder / "status.json").write_text(json.dumps({"pid": 2**22 + 7} | status))
    return folder


# --- tailing


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_whatever_is_flushed_when_every_row_arrives_once_and_whole(tmp_path_factory, cuts):
    path, text = tmp_path_factory.mktemp("tail") / "t.jsonl", "".join(json.dumps({"step": i, "name": "ä" * (i % 3)}) + "\n" for i in range(12)).encode()
    tail, rows, at = T.Tail(path), [], 0
    for size in [*cuts, len(text)]:
        with open(path, "ab") as file: file.write(text[at : at + size])
        at += size
        rows += tail.read()[1]
    assert [r["step"] for r in rows] == list(range(12)) and not tail.flaws


def test_a_replaced_or_shortened_file_is_read_again_from_its_start(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = T.Tail(path)
    assert tail.read() == (True, [{"step": 1}, {"step": 2}]) and tail.read() == (False, [])
    (tmp_path / "aside").write_text('{"step": 1}\n{"step": 9}\n')
    os.replace(tmp_path / "aside", path)
    assert tail.read() == (True, [{"step": 1}, {"step": 9}])
    path.write_text('{"step": 1}\n')
    assert tail.read() == (True, [{"step": 1}])


def test_broken_lines_are_named_and_nothing_but_a_regular_file_is_read(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"step": 1}\nnot json\n[1]\n{"step": 2}\n')
    tail = T.Tail(path)
    assert len(tail.read()[1]) == 2 and tail.flaws == [2, 3]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular file"): T.Tail(tmp_path / "pipe").read()


@given(st.integers(1, 9000), st.sampled_from([50, 400, 2000]))
def test_thinning_keeps_extremes_and_never_exceeds_the_limit(n, limit):
    steps, values = np.arange(1, n + 1), np.sin(np.arange(n) * 1.7)
    cut = T.parts(steps, limit)
    thin = T.thinned(values, cut)
    assert len(thin) == len(T.thinned_steps(steps, cut)) <= limit
    assert max(thin) == values.max() and min(thin) == values.min()


def test_a_gap_of_steps_stays_a_gap_however_much_is_thinned_away():
    steps = np.concatenate([np.arange(1, 5000), np.arange(5400, 90_000)])
    cut = T.parts(steps, 2000)
    assert [x for x, v in zip(T.thinned_steps(steps, cut), T.thinned(np.ones(len(steps)), cut)) if math.isnan(v)] == [4999]


def test_the_rate_is_right_and_is_not_taken_across_a_resume():
    steps, seconds = np.arange(1, 41), np.concatenate([np.arange(1, 21) / 4, np.arange(1, 21) / 2])
    found = T.rate(steps, seconds, window=5)
    assert found[1:20] == pytest.approx(4) and found[25:] == pytest.approx(2) and np.isnan(found[20])


# --- runs


def test_telemetry_is_read_where_the_trainer_writes_it(tmp_path):
    write(tmp_path / "run")
    assert [p.name for p in T.telemetry_files(tmp_path / "run").values()] == [TELEMETRY]


def test_nothing_outside_the_folder_of_runs_is_read(tmp_path):
    write(tmp_path / "secret")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/link").symlink_to(tmp_path / "secret")
    inner = write(tmp_path / "outputs/run", status={"status": "ok"})
    (inner / "checkpoints/stolen").symlink_to(tmp_path / "secret/checkpoints/agp")
    dashboard = RunDashboard(tmp_path / "outputs")
    assert dashboard.watch.names() == ["run"] and [s["name"] for s in dashboard.runs()[0]["students"]] == ["agp"]
    for name in ("../secret", "link", ".", str(tmp_path / "secret")):
        with pytest.raises(ValueError): dashboard.watch.look([name])
        assert "no run" in reply_to(dashboard.answer, {"kind": "look", "shown": [name], "have": {}})["error"]


@pytest.mark.parametrize("status,shown,words", [({"status": "running"}, "killed", "runner itself was killed"), ({"status": "failed", "error": "the teacher left"}, "failed", "the teacher left"),
                                                ({"status": "timeout", "error": "stopped after 9 s"}, "timeout", "9 s"), (None, "no status", "")])
def test_a_run_that_ended_badly_says_so(tmp_path, status, shown, words):
    write(tmp_path / "outputs/run", status=status)
    run = RunDashboard(tmp_path / "outputs").runs()[0]
    assert run["status"] == shown and words in run["error"]


def test_a_planned_run_that_refused_its_parameters_is_listed_with_its_words(tmp_path):
    write(tmp_path / "outputs/sweep/one", status={"status": "ok"})
    (tmp_path / "outputs/sweep/.plan").mkdir()
    (tmp_path / "outputs/sweep/.plan/two.log").write_text("drivekd run: parameter steps must be positive, found 0\n")
    listed = {r["name"]: r for r in RunDashboard(tmp_path / "outputs").watch.listed()}
    assert listed["sweep/one"]["status"] == "ok" and listed["sweep/two"]["status"] == "refused" and "found 0" in listed["sweep/two"]["error"]


def test_the_browser_gets_what_is_new_and_nothing_else(tmp_path):
    for name in ("a", "b"): write(tmp_path / "outputs" / name, status={"status": "ok"})
    dashboard = RunDashboard(tmp_path / "outputs", ["a", "b"])
    first = dashboard.answer({"kind": "look", "shown": ["a", "b"], "have": {}})
    have = {run["name"]: run["version"] for run in first["runs"]}
    assert dashboard.answer({"kind": "look", "shown": ["a", "b"], "have": have})["runs"] == []
    with open(tmp_path / "outputs/b/checkpoints/agp" / TELEMETRY, "a") as file: file.write(json.dumps(row(21)) + "\n")
    for _ in range(2):  # two browsers ask
        found, = dashboard.answer({"kind": "look", "shown": ["a", "b"], "have": have})["runs"]
        assert found["name"] == "b" and found["students"][0]["step"] == 21


def test_a_view_from_a_browser_is_checked(tmp_path):
    write(tmp_path / "outputs/run", status={"status": "ok"})
    widget = RunDashboard(tmp_path / "outputs").widget()
    for view in ({"shown": ["../x"]}, {"section": "<b>"}, {"path": "/etc"}, {"shown": "run"}, {"smooth": 3}):
        with pytest.raises(ValueError): widget.view = view
    widget.view = {"shown": ["run"], "section": "fired"}
    assert widget.view["section"] == "fired" and widget.options["asks"]


# --- questions


@pytest.fixture
def quiz(tmp_path):
    "Sixty questions about six pictures, with hostile words and one missing picture."
    names = [f"samples/{camera}/f__{camera}__1.jpg" for camera in ("CAM_FRONT", "CAM_BACK")]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (64, 36), (200, 40 + 90 * i, 60)).save(tmp_path / name)
    entries = [{"id": f"q{i}", "messages": [{"role": "user", "content": f"<image><image>What about {HOSTILE[i % len(HOSTILE)].replace('<image>', '')} and <c1,CAM_BACK,0.25,0.5>? A. a car B. two buses"}, {"role": "assistant", "content": "B. two buses"}],
                "images": [names[0], names[1] if i else "samples/CAM_BACK/gone__CAM_BACK__1.jpg"], "question_type": ("perception", "planning")[i % 2]} for i in range(60)]
    (tmp_path / "quiz.json").write_text(json.dumps(entries))
    return read_records(tmp_path / "quiz.json")


def said(quiz, step=2):
    return [{"setting": "clean", "id": r.id, "reply": HOSTILE[i % len(HOSTILE)], "means": None if i % 5 == 0 else "B", "right": i % 5 != 0 and i % step == 0} for i, r in enumerate(quiz)]


def test_marks_tell_right_wrong_unread_and_open():
    assert [B.mark_of(r) for r in ({"right": True, "means": "A"}, {"right": False, "means": "B"}, {"right": False, "means": None}, {"reply": "open"})] == ["right", "wrong", "unread", "open"]
    assert B.judged({"judgements": [{"total": 40}, {"total": 60}]}) == 50 and B.judged({"judgements": [{"total": None}]}) is None and B.judged({}) is None


def test_entries_know_cameras_objects_and_where_tags_point(quiz):
    found = B.Entries(quiz, {"m": said(quiz)})
    tag = next(t for t in found.rows[1]["tags"] if t["label"] == "c1" and t["text"].startswith("<c1,CAM_BACK"))
    assert found.rows[1]["cameras"] == ["CAM_FRONT", "CAM_BACK"] and found.rows[1]["objects"] == ["car", "bus"]
    assert (tag["x"], tag["y"]) == (0.25, 0.5) and found.pictures[tag["picture"]].camera == "CAM_BACK"


def test_answers_of_strangers_are_refused_with_their_line(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "reply": "b"}\n{"id": 3}\n')
    with pytest.raises(DataError, match="line 2"): B.read_answers(tmp_path)


def test_a_page_stays_below_its_limit_and_says_what_it_left_out(quiz, tmp_path):
    browser = B.QuestionBrowser(quiz)
    bare = len(browser._written([None] * len(browser.entries.pictures)))
    path = browser.to_html(tmp_path / "q.html", limit=bare + 700)
    assert path.stat().st_size <= bare + 700 and browser.to_html(tmp_path / "all.html").stat().st_size > path.stat().st_size


def test_the_kernel_gives_pictures_by_number_only(quiz):
    browser = B.QuestionBrowser(quiz)
    assert "jpeg" in reply_to(browser.answer, {"kind": "picture", "index": 0})
    gone = next(i for i, ref in enumerate(browser.entries.pictures) if "gone" in ref.path.name)
    assert "there is no picture" in reply_to(browser.answer, {"kind": "picture", "index": gone})["error"]
    for index in (-1, 99, "0", True, None): assert "something else" in reply_to(browser.answer, {"kind": "picture", "index": index})["error"]
    widget = browser.widget()
    with pytest.raises(ValueError, match="found 'path'"): widget.view = {"path": "/etc/passwd"}


# --- in a browser


@pytest.fixture(scope="module")
def chromium():
    "A headless Chromium."
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None: pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(chromium, path: Path, width: int):
    "A page without a network, and what went wrong in it."
    tab, wrong = chromium.new_page(viewport={"width": width, "height": 900}), []
    tab.route("**", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:", "blob:")) else (wrong.append(route.request.url), route.abort()))
    tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    tab.on("dialog", lambda d: (wrong.append("foreign text was run"), d.dismiss()))
    tab.goto(path.as_uri())
    tab.wait_for_selector("[data-ready=true]")
    return tab, wrong


def test_the_dashboard_page_works_offline_by_keyboard_and_shows_gaps_and_hostile_names(chromium, tmp_path):
    write(tmp_path / "outputs/good", status={"status": "ok"})
    write(tmp_path / "outputs/<b>bad", [*range(1, 6), *range(12, 21)], {"status": "failed", "error": "<img src=x onerror=alert(1)> $x$"}, student="<s>agp", losses={"<b>": 1.0, "ce": 2.0})
    page = RunDashboard(tmp_path / "outputs", ["good", "<b>bad"]).to_html(tmp_path / "runs.html")
    tab, wrong = visit(chromium, page, 1280)
    text = tab.inner_text("body")
    assert all(t in text for t in ("<b>bad", "<s>agp", "<img src=x onerror=alert(1)> $x$", "failed")) and tab.locator("img").count() == 0
    for key, panels in (("2", 4), ("3", 2), ("4", 1), ("5", 2), ("6", 3), ("1", 6)):
        tab.keyboard.press(key)
        assert tab.locator(".dk-chart").count() == panels, key
    tab.keyboard.press("Home")
    assert "At step 1." in tab.inner_text(".dk-readout") and "loss 5.00" in tab.inner_text(".dk-readout")
    tab.keyboard.press("Shift+ArrowRight")
    assert "At step 11." in tab.inner_text(".dk-readout")
    drawn = "([x0, x1, w]) => { const c = document.querySelector('[data-panel=\"ce_share\"] canvas'), d = c.getContext('2d').getImageData(x0, 0, w, c.height).data; let n = 0; for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - 0xe0) + Math.abs(d[i + 1] - 0x8a) + Math.abs(d[i + 2] - 0x2e) < 60) n++; return n; }"
    wide = tab.evaluate("document.querySelector('[data-panel=\"ce_share\"] canvas').width")
    place = lambda step: int(46 + (step - 1) / 19 * (wide - 54))
    gap, line = tab.evaluate(drawn, [place(6.5), 0, place(10.5) - place(6.5)]), tab.evaluate(drawn, [place(13), 0, place(17) - place(13)])
    assert gap == 0 < line  # the second run has no steps 6 to 11
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280 and wrong == []
    tab.close()


def test_hundreds_of_questions_are_filtered_and_walked_by_keyboard_and_nothing_foreign_runs(chromium, quiz, tmp_path):
    many = B.QuestionBrowser(list(quiz) * 1, {"teacher": said(quiz), "<b>student": said(quiz, 3)})
    many.entries.rows = [{**r, "id": f"{r['id']}-{k}"} for k in range(20) for r in many.entries.rows]
    tab, wrong = visit(chromium, many.to_html(tmp_path / "q.html"), 820)
    assert tab.inner_text(".dk-count") == "1200 of 1200" and tab.locator(".dk-line2").count() < 40
    assert "there is no picture" in tab.inner_text(".dk-album")
    seen = set()
    for _ in HOSTILE:
        seen.add(tab.inner_text(".dk-ask"))
        tab.keyboard.press("ArrowDown")
    assert all(any(text in s for s in seen) for text in HOSTILE if text != "<image>")
    tab.keyboard.press("/")
    tab.keyboard.type("onerror")
    assert 0 < int(tab.inner_text(".dk-count").split()[0]) < 1200
    tab.keyboard.press("Escape")
    tab.keyboard.press("w")
    assert tab.inner_text(".dk-count") != "1200 of 1200" and set(tab.locator(".dk-card i").all_inner_texts()) & {"\u2715"}
    took = tab.evaluate("(() => { const box = document.querySelector('input[type=search]'), t = performance.now(); for (const text of ['c', 'ca', 'car']) { box.value = text; box.dispatchEvent(new Event('input')); } return (performance.now() - t) / 3; })()")
    assert took < 200  # milliseconds a keystroke, on a busy machine
    assert tab.locator(".dk-point").count() > 0 and tab.locator("img[src=x]").count() == 0 and wrong == []
    tab.close()
