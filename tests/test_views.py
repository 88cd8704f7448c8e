"The run dashboard and the question browser: what they read, what they refuse, and how they behave in a browser without a network."
import html
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from hostile import LINES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from readme import ROOT

from drivekd.data.problems import DataError
from drivekd.data.records import read_records
from drivekd.distill.runfiles import TELEMETRY
from drivekd.runs import tail as T
from drivekd.runs.dashboard import RunDashboard
from drivekd.runs.runner import RUN_DIR, project_root
from drivekd.workbench import browser as B
from drivekd.workbench import pages as P
from drivekd.workbench.live import Live, present, reply_to, save_page


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


@settings(max_examples=25)
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


@pytest.mark.parametrize("anew", ['{"step": 7}\n{"step": 8}\n{"step": 9}\n', '{"step": 1}\n{"step": 8}\n{"step": 9}\n'], ids=["another first line", "the same first line"])
def test_a_file_that_is_written_anew_in_place_and_longer_is_read_again_from_its_start(tmp_path, anew):
    path = tmp_path / "t.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = T.Tail(path)
    tail.read()
    path.write_text(anew)
    assert tail.read() == (True, [json.loads(line) for line in anew.splitlines()])


def test_broken_lines_are_named_and_nothing_but_a_regular_file_is_read(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"step": 1}\nnot json\n[1]\n{"step": 2}\n')
    tail = T.Tail(path)
    assert len(tail.read()[1]) == 2 and tail.flaws == [2, 3]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular file"): T.Tail(tmp_path / "pipe").read()


@settings(max_examples=25)
@given(st.integers(1, 9000), st.sampled_from([50, 400, 2000]))
def test_thinning_keeps_extremes_and_never_exceeds_the_limit(n, limit):
    steps, values = np.arange(1, n + 1), np.sin(np.arange(n) * 1.7)
    cut = T.parts(steps, limit)
    thin = T.thinned(values, cut)
    assert len(thin) == len(T.thinned_steps(steps, cut)) <= limit
    assert max(thin) == values.max() and min(thin) == values.min()


@settings(max_examples=25)
@given(st.lists(st.sampled_from([1, 1, 5, 40]), min_size=1, max_size=3000), st.sampled_from([50, 400]))
def test_however_many_gaps_there_are_the_limit_holds_and_no_gap_is_joined(jumps, limit):
    steps = np.cumsum(jumps)
    cut = T.parts(steps, limit)
    points = T.thinned(np.ones(len(steps)), cut)
    assert len(points) == len(T.thinned_steps(steps, cut)) <= limit and cut[0][0] == 0 and cut[-1][1] == len(steps)
    joined = [a[1] for a, b in zip(cut, cut[1:]) if a[0] < a[1] and b[0] < b[1]]
    assert not set(joined) & set(T.breaks(steps).tolist())


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


STANDS_IN = """
import json, os, pathlib, sys
run = pathlib.Path(sys.argv[1])
(run / "status.json").write_text(json.dumps({"status": "running", "pid": os.getpid(), "cell": 7, "cells": 12}))
for line in sys.stdin:  # a step a line, as the test wants them
    with open(run / "checkpoints/agp/telemetry.jsonl", "a") as file: file.write(line)
"""


def test_a_running_run_of_another_process_is_followed_without_touching_it(tmp_path):
    run = write(tmp_path / "outputs/run", steps=[])
    training = subprocess.Popen([sys.executable, "-c", STANDS_IN, str(run)], stdin=subprocess.PIPE, text=True, env={**os.environ, RUN_DIR: str(run.resolve())})
    try:
        def until(ready):
            for _ in range(400):
                found = RunDashboard.answer(dashboard, {"kind": "look", "shown": ["run"], "have": {}})["runs"][0]
                if ready(found): return found
                time.sleep(0.02)
            raise AssertionError(found)
        dashboard = RunDashboard(tmp_path / "outputs")
        for step in (1, 2, 3):
            training.stdin.write(json.dumps(row(step)) + "\n")
            training.stdin.flush()
            found = until(lambda run, step=step: run["status"] == "running" and run["students"][0]["step"] == step)
        assert found["place"] == "cell 7 of 12" and found["memory"][-1][1] > 1e6 and found["memory"][-1][2] == 1
        assert found["students"][0]["curves"]["losses/ce"] == [4, 2, 1.3333] and found["students"][0]["curves"]["rate"][-1] == 2
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        dashboard.look(), dashboard.summary()
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
        training.kill(), training.wait()
        assert "runner itself was killed" in until(lambda run: run["status"] == "killed")["error"]
    finally: training.kill(), training.wait()


def test_an_excerpt_draws_the_same_with_fewer_digits(tmp_path):
    run = write(tmp_path / "outputs/run", status={"status": "ok"}, loss=1.23456, gram=[[1.0]], weights={"ce": 1})
    whole, small = (RunDashboard(T.excerpt(run, tmp_path / "less/run", rows=12).parent if less else tmp_path / "outputs").runs()[0] for less in (False, True))
    assert small["status"] == "ok" and small["students"][0]["step"] == 12 and set(small["students"][0]["curves"]) == set(whole["students"][0]["curves"])
    assert small["students"][0]["curves"]["loss"] == [1.23] * 12 and "gram" not in (tmp_path / "less/run/checkpoints/agp" / TELEMETRY).read_text()


def test_the_recorded_runs_open_and_say_what_happened():
    found = {run["name"]: run for run in RunDashboard(ROOT / "data/explorers/runs").runs()}
    assert found["agp"]["status"] == "ok" and found["agp-interrupted"]["error"] == "the run was interrupted"
    assert all(s["step"] > 80 and not s["flaws"] for run in found.values() for s in run["students"]) and found["agp"]["peak"] > 0


def test_a_view_from_a_browser_is_checked(tmp_path):
    write(tmp_path / "outputs/run", status={"status": "ok"})
    widget = RunDashboard(tmp_path / "outputs").widget()
    for view in ({"shown": ["../x"]}, {"section": "<b>"}, {"path": "/etc"}, {"shown": "run"}, {"smooth": 3}):
        with pytest.raises(ValueError): widget.view = view
    widget.view = {"shown": ["run"], "section": "fired"}
    assert widget.view["section"] == "fired" and widget.options["asks"]


def test_every_explorer_lives_in_one_way():
    from drivekd.workbench.conflict_explorer import ConflictExplorer
    from drivekd.workbench.explorers import AttentionExplorer
    from drivekd.workbench.prestudy_explorer import PrestudyExplorer
    for kind in (AttentionExplorer, ConflictExplorer, PrestudyExplorer, B.QuestionBrowser, RunDashboard):
        assert issubclass(kind, Live) and kind.show is Live.show and P.front(kind.FRONT), kind


def test_a_page_is_not_written_over_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"a page is written to a file, found the folder .*; give a name in it, such as .*page\.html"):
        save_page(tmp_path, "<p>")
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_there_are_named(tmp_path):
    for missing in (tmp_path / "no", tmp_path):  # a run without answers.jsonl, too
        with pytest.raises(DataError, match=r"found none at .*; give the answers\.jsonl of `drivekd run evaluate`"):
            B.read_answers(missing)


def test_a_browser_without_questions_says_why_and_what_helps():
    path = ROOT / "data/examples/shapes/questions.json"
    empty, full = B.QuestionBrowser(read_records(path)), B.QuestionBrowser(read_records(path, capabilities=["find", "count"]))
    for told in (empty.summary(), *empty.header()["notes"]):
        assert "96 records could not be read and are not here; record 0: the question type must be one of" in told and "found 'find'" in told and "`capabilities=[…]`" in told
    assert empty.summary().startswith("0 questions, 0 pictures.") and len(full.entries.rows) == 96 and full.header()["notes"] == []
    assert empty._written([]) in html.unescape(empty.static()._repr_html_())  # the page of an executed notebook says it, too


@pytest.mark.parametrize("taken_out,seen", [(r"", False), (r"<iframe.*?</iframe>|<style>.*?</style>", True), (r"<iframe.*?</iframe>", True)], ids=["trusted", "untrusted", "untrusted, beside a cell that ran"])
def test_where_a_page_may_not_run_its_picture_stands_in_the_open(offline, taken_out, seen):
    shown = P.Static("<p>the page</p>", "A grey square.", Image.new("RGB", (40, 20), "grey"))._repr_html_()
    offline.set_content("<body>" + (re.sub(taken_out, "", shown) if taken_out else shown))
    assert offline.locator("iframe").count() == (not seen)
    assert offline.get_by_alt_text("A grey square.").is_visible() == offline.get_by_text("run this cell").is_visible() == seen


def test_the_chapter_names_the_folder_that_runs_go_to(monkeypatch):
    chapter = ROOT / "nbs/explorers/runs.ipynb"
    [opening] = [cell.source for cell in nbformat.read(chapter, 4).cells if "# yours: " in cell.source]
    monkeypatch.chdir(chapter.parent)
    yours = eval(re.search(r"# yours: (.+)", opening)[1], {"RunDashboard": RunDashboard, "project_root": project_root})
    assert yours.watch.root == ROOT / "outputs"


@pytest.mark.parametrize("environment,expected", [
    ({}, "static"), ({"JPY_SESSION_NAME": "nbs/explorers/runs.ipynb"}, "widget"), ({"SERVER_SOFTWARE": "voila/0.5.13"}, "widget"), ({"SERVER_SOFTWARE": "gunicorn/23.0"}, "static"),
], ids=["nobody", "jupyter", "voila", "another-server"])
def test_a_view_is_live_where_a_browser_waits(monkeypatch, environment, expected):
    for name in ("JPY_SESSION_NAME", "SERVER_SOFTWARE"): monkeypatch.delenv(name, raising=False)
    for name, value in environment.items(): monkeypatch.setenv(name, value)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    present(lambda: "widget", lambda: "static")
    assert shown == [expected]


ASKS = """from drivekd.workbench.live import present
present(lambda: "a widget is here", lambda: "a picture is here")"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("voila"), reason="Voila is not installed; `make serve` installs it")
def test_voila_gets_live_views_and_its_pages_may_ask_nobody_else(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ASKS)], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(notebook, tmp_path / "ask.ipynb")
    [command] = re.findall(r"^\t@(voila .*) \$\(SERVE\)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = command.replace("voila nbs/explorers", f"exec voila {tmp_path}").replace("--token", "--token=t")
    served = subprocess.Popen(f"{flags} --port={port}", shell=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        reply = within(60, lambda: opened(f"http://127.0.0.1:{port}/voila/render/ask.ipynb?token=t"))
        assert "a widget is here" in reply.text and "a picture is here" not in reply.text
        assert "default-src 'self'" in reply.headers["Content-Security-Policy"] and "http" not in reply.headers["Content-Security-Policy"]
        assert "a widget is here" not in opened(f"http://127.0.0.1:{port}/voila/render/ask.ipynb").text  # a token is asked for
    finally:
        served.terminate()
        served.wait(20)


def opened(address):
    reply = urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(address, timeout=60)
    return SimpleNamespace(text=reply.read().decode(), headers=reply.headers)


def within(seconds, attempt):
    "What `attempt` returns once the server listens."
    end = time.monotonic() + seconds
    while True:
        try: return attempt()
        except urllib.error.URLError:
            if time.monotonic() > end: raise
            time.sleep(0.5)


SELECTORS = """look => {
  const sheet = new CSSStyleSheet(), of = rules => [...rules].flatMap(r => r.selectorText ?? of(r.cssRules));
  sheet.replaceSync(look);
  return of(sheet.cssRules).flatMap(text => text.split(","));
}"""


@pytest.mark.parametrize("view", sorted(f.stem for f in (ROOT / "drivekd/workbench/front").glob("*.js") if "const LOOK" in f.read_text(encoding="utf-8")))
def test_the_look_of_a_view_stays_in_its_frame(offline, view):
    script = P.source(view)
    [own] = re.findall(r'box\.root\.classList\.add\("([\w-]+)"\)', script)
    selectors = offline.evaluate(SELECTORS, re.sub(r"\$\{[^}]*\}", "red", script.split("const LOOK = `")[1].split("`;")[0]))
    assert selectors and [s for s in selectors if not re.match(rf"\.{own}(?![\w-])", s.strip())] == []


HUGE = 10**400  # JSON holds it, a float does not


@pytest.mark.parametrize("more", [dict(loss=HUGE), dict(losses={"ce": HUGE}), dict(cosines=[[1, HUGE], [0, 1]]), dict(fired_stage1=[HUGE]), dict(seconds=-HUGE), dict(loss=1.797e308), dict(memory_gb=float("inf"))], ids=str)
def test_a_number_that_cannot_be_drawn_is_a_gap_and_the_dashboard_opens(tmp_path, more):
    write(tmp_path / "outputs/run", [1], status={"status": "ok", "seconds": HUGE})
    with open(tmp_path / "outputs/run/checkpoints/agp" / TELEMETRY, "a") as file: file.write(json.dumps(row(2) | more) + "\n")
    dashboard = RunDashboard(tmp_path / "outputs")
    student = dashboard.runs()[0]["students"][0]
    assert student["steps"] == [1, 2] and None in [curve[-1] for curve in student["curves"].values()]
    assert dashboard._data() and dashboard.picture() and dashboard.runs()[0]["seconds"] is None


@pytest.mark.parametrize("step", [HUGE, 2**53, -1, True, 1.5, None])
def test_a_row_without_a_step_that_can_be_drawn_is_left_out(tmp_path, step):
    write(tmp_path / "outputs/run", [1, 2], status={"status": "ok"})
    with open(tmp_path / "outputs/run/checkpoints/agp" / TELEMETRY, "a") as file: file.write(json.dumps(row(3) | {"step": step}) + "\n")
    assert RunDashboard(tmp_path / "outputs").runs()[0]["students"][0]["steps"] == [1, 2]


@pytest.mark.parametrize("value", [HUGE, float("nan"), "9", None, [1]])
def test_a_peak_and_a_goal_that_are_no_numbers_are_not_told(tmp_path, value):
    run = write(tmp_path / "outputs/run", [1, 2], status={"status": "ok"})
    (run / "result.json").write_text(json.dumps({"metrics": {"peak_memory_gb": value}}))
    (run / "checkpoints/agp/checkpoint-2").mkdir()
    (run / "checkpoints/agp/checkpoint-2/trainer_state.json").write_text(json.dumps({"max_steps": HUGE if value is None else float("inf"), "log_history": [{"step": HUGE, "grad_norm": 1}, {"step": 1, "grad_norm": value}]}))
    found = RunDashboard(tmp_path / "outputs").runs()[0]
    assert found["peak"] is None and found["students"][0]["of"] is None and found["students"][0]["log"] == {}


# --- questions


@pytest.fixture
def quiz(tmp_path):
    "Sixty questions about six pictures, with hostile words and one missing picture."
    names = [f"samples/{camera}/f__{camera}__1.jpg" for camera in ("CAM_FRONT", "CAM_BACK")]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (64, 36), (200, 40 + 90 * i, 60)).save(tmp_path / name)
    entries = [{"id": f"q{i}", "messages": [{"role": "user", "content": f"<image><image>What about {LINES[i % len(LINES)].replace('<image>', '')} and <c1,CAM_BACK,0.25,0.5>? A. a car B. two buses"}, {"role": "assistant", "content": "B. two buses"}],
                "images": [names[0], names[1] if i else "samples/CAM_BACK/gone__CAM_BACK__1.jpg"], "question_type": ("perception", "planning")[i % 2]} for i in range(60)]
    (tmp_path / "quiz.json").write_text(json.dumps(entries))
    return read_records(tmp_path / "quiz.json")


def said(quiz, step=2):
    return [{"setting": "clean", "id": r.id, "reply": LINES[i % len(LINES)], "means": None if i % 5 == 0 else "B", "right": i % 5 != 0 and i % step == 0} for i, r in enumerate(quiz)]


def test_marks_tell_right_wrong_unread_and_open():
    assert [B.mark_of(r) for r in ({"right": True, "means": "A"}, {"right": False, "means": "B"}, {"right": False, "means": None}, {"reply": "open"})] == ["right", "wrong", "unread", "open"]
    assert B.judged({"judgements": [{"total": 40}, {"total": 60}]}) == 50 and B.judged({"judgements": [{"total": None}]}) is None and B.judged({}) is None


def test_entries_know_cameras_objects_and_where_tags_point(quiz):
    found = B.Entries(quiz, {"m": said(quiz)})
    tag = next(t for t in found.rows[1]["tags"] if t["label"] == "c1" and t["text"].startswith("<c1,CAM_BACK"))
    assert found.rows[1]["cameras"] == ["CAM_FRONT", "CAM_BACK"] and found.rows[1]["objects"] == ["car", "bus"]
    assert (tag["x"], tag["y"]) == (0.25, 0.5) and found.pictures[tag["picture"]].camera == "CAM_BACK"


def test_tags_of_a_reply_are_found_and_belong_to_the_question_if_it_has_them(quiz):
    rows = [{"id": quiz[1].id, "reply": "look at <c7,CAM_FRONT,0.75,0.5> and <c1,CAM_BACK,0.25,0.5>"}]
    tags = B.Entries(quiz[:3], {"m": rows}).rows[1]["tags"]
    assert [(t["label"], t["where"], t["x"]) for t in tags if t["text"][1:3] in ("c7", "c1") and t["x"] != 0.46] == [("c1", "question", 0.25), ("c7", "reply", 0.75)]


def test_answers_of_strangers_are_refused_with_their_line(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "reply": "b"}\n{"id": 3}\n')
    with pytest.raises(DataError, match="line 2"): B.read_answers(tmp_path)


@pytest.mark.parametrize("rows,words", [([{"id": "a", "reply": "b"}, {"x": 1}], "line 2"), ([{"id": "a", "reply": 5}], "line 1"), ([3], "line 1"), (5, "found 5"), ({"id": "a", "reply": "b"}, "an object")])
def test_rows_of_strangers_are_refused_as_their_file_is(quiz, rows, words):
    with pytest.raises(DataError, match=words): B.QuestionBrowser(quiz, {"m": rows})


@pytest.mark.parametrize("total", [HUGE, float("inf"), float("nan"), "9", True])
def test_a_total_that_cannot_be_drawn_is_no_judgement(quiz, total):
    judgements = [{"total": 50}, {"total": total}]
    assert B.judged({"judgements": judgements}) is None
    assert B.QuestionBrowser(quiz, {"m": [{"id": quiz[0].id, "reply": "a", "judgements": judgements}]})._data()


@pytest.mark.parametrize("width", [0, -1, "9", 10**9, 1.5])
def test_a_width_that_no_picture_can_have_is_refused(quiz, width):
    with pytest.raises(ValueError, match="`width` is the pixels"): B.QuestionBrowser(quiz, width=width)
    with pytest.raises(ValueError, match="`width` is the pixels"): B.QuestionBrowser(quiz).static(width=width)


def test_the_first_picture_is_that_of_the_first_question_that_has_one(quiz):
    blind = [replace(quiz[1], images=()), *quiz[:2]]  # no pictures; one is lost; all are there
    assert B._first_picture(blind) is not None and B._first_picture(blind[:2]) is None


def test_a_page_stays_below_its_limit_and_says_what_it_left_out(quiz, tmp_path):
    browser = B.QuestionBrowser(quiz)
    bare = len(browser._written([None] * len(browser.entries.pictures)))
    path = browser.to_html(tmp_path / "q.html", limit=bare + 700)
    assert path.stat().st_size <= bare + 700 and browser.to_html(tmp_path / "all.html").stat().st_size > path.stat().st_size


def test_questions_that_a_notebook_cannot_keep_are_refused(quiz):
    with pytest.raises(ValueError, match="fewer questions with `most`"): B.QuestionBrowser(quiz).static(limit=20_000)


def test_the_kernel_gives_pictures_by_number_only(quiz):
    browser = B.QuestionBrowser(quiz)
    assert "jpeg" in reply_to(browser.answer, {"kind": "picture", "index": 0})
    gone = next(i for i, ref in enumerate(browser.entries.pictures) if "gone" in ref.path.name)
    assert "there is no picture" in reply_to(browser.answer, {"kind": "picture", "index": gone})["error"]
    for index in (-1, 99, "0", True, None): assert "something else" in reply_to(browser.answer, {"kind": "picture", "index": index})["error"]
    widget = browser.widget()
    with pytest.raises(ValueError, match="found 'path'"): widget.view = {"path": "/etc/passwd"}


# --- in a browser


def with_kernel(view, data, replies):
    "A page whose widget talks to a kernel that stands in: `replies` is JavaScript from a message to its reply."
    return P.page("widget", P.front(view), data, {}).replace(P._BOOT, """
      fromBase64(document.getElementById("dk-data").textContent).then(bytes => {
        const traits = {data: new DataView(bytes.buffer), options: {asks: true}, view: {}}, listeners = {}, sent = globalThis.sent = [], reply = REPLIES;
        const model = globalThis.model = {get: k => traits[k], set: (k, v) => { traits[k] = v; }, save_changes() {}, on: (k, f) => { listeners[k] = f; },
          send: m => { sent.push(m); setTimeout(() => listeners["msg:custom"]({...reply(m), id: m.id})); }};
        explore(document.getElementById("dk-host"), widgetChannel(model));
      });""".replace("REPLIES", replies))


@pytest.mark.parametrize("view,keys", [("dashboard", 11), ("questions", 12)])
def test_the_front_ends_are_small_and_write_text_only_as_text(view, keys):
    script = P.front(view)
    assert len(script.encode()) < 45_000 and not [w for w in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://", "import ") if w in script]
    assert script.split("const KEYS")[1].split("];")[0].count("[") - 1 == keys  # the list of keys is complete: the tests below press them


def test_the_dashboard_shows_gaps_and_hostile_names_and_is_walked_by_keyboard(opened, tmp_path):
    write(tmp_path / "outputs/good", status={"status": "ok"})
    write(tmp_path / "outputs/<b>bad", [*range(1, 6), *range(12, 21)], {"status": "failed", "error": "<img src=x onerror=alert(1)> <c1,CAM_FRONT,0.46,0.67> $x$"}, student="<s>agp", losses={"<b>": 1.0, "ce": 2.0})
    tab = opened(RunDashboard(tmp_path / "outputs", ["good", "<b>bad"]).to_html(tmp_path / "runs.html").read_text())
    text = tab.inner_text("body")
    assert all(t in text for t in ("<b>bad", "<s>agp", "<img src=x onerror=alert(1)> <c1,CAM_FRONT,0.46,0.67> $x$", "failed")) and tab.locator("img").count() == 0
    assert "Main memory of the run's processes, GB" in text and "main memory of the run's processes" in tab.get_attribute("th:has-text('memory')", "title")
    for key, panels in (("2", 4), ("3", 2), ("4", 1), ("5", 2), ("6", 4), ("7", 0), ("1", 6)):
        tab.keyboard.press(key)
        assert tab.locator(".dk-chart").count() == panels, key
    tab.keyboard.press("Home")
    assert "At step 1." in tab.inner_text(".dk-readout") and "loss 5.00" in tab.inner_text(".dk-readout")
    tab.keyboard.press("Shift+ArrowRight")
    assert "At step 11." in tab.inner_text(".dk-readout")
    for key, found, value in (("+", "view.domain()[1] - view.domain()[0]", 9.5), ("0", "view.state.window", None), ("t", "view.state.axis", "time"), ("t", "view.state.axis", "step"), ("l", "view.state.log", True), ("m", "view.state.smooth", 5)):
        tab.keyboard.press(key)
        assert tab.evaluate(f"(view => {found})(document.querySelector('.dk').view)") == value, key
    tab.keyboard.press("?")
    assert tab.is_visible("text=let go")
    tab.keyboard.press("Escape"), tab.keyboard.press("p")
    assert tab.get_attribute(".dk-picture", "src").startswith("data:image/png;base64,")


@pytest.mark.parametrize("width", [1024, 1440])
def test_titles_of_cosines_differ_are_whole_and_say_raw_or_merged_and_a_running_step_has_its_total(opened, tmp_path, width):
    three = {"terms": ["ce", "perception", "reasoning", "planning"], "merged": ["perception", "reasoning", "planning"], "cosines": [[1.0] * 4] * 4, "cosines_stage1": [[1.0] * 4] * 4, "cosines_merged": [[1.0] * 3] * 3, "cosines_stage2": [[1.0] * 3] * 3}
    write(tmp_path / "outputs/run", status={"status": "ok"}, **three)
    (tmp_path / "outputs/run/params.yaml").write_text("steps: 300\n")
    tab = opened(RunDashboard(tmp_path / "outputs", view={"section": "cosines"}).to_html(tmp_path / "runs.html").read_text(), width)
    titles = tab.locator(".dk-chart b")
    words = titles.all_inner_texts()
    assert len(set(words)) == len(words) == 9 and "Raw: perception·planning" in words and "Merged with CE: perception·planning" in words
    assert titles.evaluate_all("nodes => nodes.every(n => n.scrollWidth <= n.clientWidth && n.getBoundingClientRect().right <= n.closest('figure').getBoundingClientRect().right)")
    assert "20 of 300" in tab.inner_text(".dk-runs") and "step 20 of 300" in RunDashboard(tmp_path / "outputs").summary()
    tab.locator(".dk-chart canvas[tabindex]").nth(3).focus()
    tab.keyboard.press("2")
    assert tab.evaluate("document.activeElement.tagName") == "CANVAS"  # of the new section; its keys go on


DRAWN = """([panel, rgb, from, to]) => { const view = document.querySelector('.dk').view, chart = view.charts.find(c => c.spec.key === panel), canvas = chart.base, ratio = canvas.width / chart.w, x = ratio * chart.px(from), w = ratio * (chart.px(to) - chart.px(from));
  const d = canvas.getContext('2d').getImageData(x, 0, w, canvas.height).data; let n = 0;
  for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - rgb[0]) + Math.abs(d[i + 1] - rgb[1]) + Math.abs(d[i + 2] - rgb[2]) < 60) n++;
  return n; }"""


@pytest.mark.slow
def test_missing_steps_are_a_gap_on_the_canvas(opened, tmp_path):
    write(tmp_path / "outputs/whole")
    write(tmp_path / "outputs/torn", [*range(1, 6), *range(12, 21)], ce_share=0.25)
    tab = opened(RunDashboard(tmp_path / "outputs", ["whole", "torn"]).to_html(tmp_path / "runs.html").read_text())
    ink = lambda rgb, *between: tab.evaluate(DRAWN, ["ce_share", rgb, *between])
    blue, orange = [0x3B, 0x82, 0xC4], [0xE0, 0x8A, 0x2E]
    assert ink(orange, 5.5, 11.5) == 0 < ink(orange, 13, 17) and ink(blue, 5.5, 11.5) > 0


def test_in_jupyter_the_dashboard_asks_for_what_is_new_and_shows_it(opened, tmp_path):
    write(tmp_path / "outputs/run", status={"status": "ok"})
    dashboard = RunDashboard(tmp_path / "outputs")
    first = dashboard.snapshot()
    with open(tmp_path / "outputs/run/checkpoints/agp" / TELEMETRY, "a") as file: file.write(json.dumps(row(21, loss=0.125)) + "\n")
    (tmp_path / "outputs/run/status.json").write_text(json.dumps({"status": "failed", "error": "the <b>disk</b> is full", "pid": 1}))
    later = dashboard.answer({"kind": "look", "shown": ["run"], "have": {}})
    tab = opened(with_kernel("dashboard", json.dumps(first).encode(), f"(replies => m => replies.length ? replies.shift() : {{error: 'the kernel has left'}})([{{made: 1, runs: [], listed: {json.dumps(first['listed'])}}}, {json.dumps(later)}])"))
    tab.wait_for_function("sent.length > 0")
    assert tab.evaluate("sent[0]") == {"kind": "look", "shown": ["run"], "have": {"run": first["runs"][0]["version"]}, "id": 1} and "ok" in tab.inner_text(".dk-runs")
    tab.evaluate("document.querySelector('.dk').view.look()")
    tab.wait_for_selector("text=failed")
    assert "the <b>disk</b> is full" in tab.inner_text(".dk-runs") and "0.125" in tab.inner_text(".dk-runs") and "run is now failed" in tab.text_content(".dk-live")
    tab.evaluate("document.querySelector('.dk').view.look()")
    tab.wait_for_selector("text=the kernel has left")
    tab.focus("canvas[tabindex='0']"), tab.keyboard.press("Space")
    assert tab.inner_text(".dk-pulse") == "paused"
    tab.keyboard.press("2")
    assert tab.evaluate("model.get('view')") == {"shown": ["run"], "hidden": [], "section": "losses", "axis": "step", "log": False, "smooth": 1}


def test_a_dashboard_whose_kernel_is_silent_says_so_until_it_answers(opened, tmp_path):
    write(tmp_path / "outputs/run")
    first = RunDashboard(tmp_path / "outputs").snapshot()
    page = with_kernel("dashboard", json.dumps(first).encode(), "m => ({made: 1, runs: [], listed: []})").replace("asks: true", "asks: true, patience: 0.2").replace("setTimeout(() => listeners", "globalThis.open && setTimeout(() => listeners")
    tab = opened(page.replace("const traits", "globalThis.open = false; const traits"))
    tab.wait_for_selector(".dk-pulse:text('the kernel does not answer')")
    tab.evaluate("open = true, document.querySelector('.dk').view.look()")
    tab.wait_for_selector(".dk-pulse:text('live, every')")


def test_hundreds_of_questions_are_filtered_and_walked_by_keyboard_and_nothing_foreign_runs(opened, quiz, tmp_path):
    many = B.QuestionBrowser(quiz, {"teacher": said(quiz), "<b>student": said(quiz, 3)})
    many.entries.rows = [{**r, "id": f"{r['id']}-{k}"} for k in range(20) for r in many.entries.rows]
    tab = opened(many.to_html(tmp_path / "q.html").read_text(), 820)
    assert tab.inner_text(".dk-count") == "1200 of 1200" and tab.locator(".dk-line2").count() < 40
    assert "there is no picture" in tab.inner_text(".dk-album")
    assert tab.inner_text("[aria-selected=true] .dk-q").split()[:3] == tab.inner_text(".dk-ask").split()[:3] != []  # it opens with a question
    tab.select_option("label:has-text('answers') select", "unread")
    assert tab.locator(".dk-card-unread small").all_inner_texts() and all(text.startswith("unread: ") for text in tab.locator(".dk-card-unread small").all_inner_texts())
    tab.click("text=Clear")
    seen = set()
    for _ in LINES:
        seen.add(tab.text_content(".dk-ask"))
        tab.keyboard.press("ArrowDown")
    assert all(any(text in s for s in seen) for text in LINES if text != "<image>")
    assert tab.locator(".dk-point").count() > 0 and tab.locator("img[src=x]").count() == 0
    tab.keyboard.press("/")
    tab.keyboard.type("onerror")
    assert 0 < int(tab.inner_text(".dk-count").split()[0]) < 1200
    tab.keyboard.press("Escape")
    state = lambda key: tab.evaluate(f"document.querySelector('.dk').view.state.{key}")
    for key, name, value in (("2", "capability", "perception"), ("1", "capability", ""), ("c", "camera", "CAM_FRONT"), ("o", "object", "car"), ("w", "mark", "wrong"), ("End", "id", None), ("Home", "id", None), ("PageDown", "id", None), ("k", "id", None), ("j", "id", None)):
        before = state(name)
        tab.keyboard.press(key)
        assert state(name) == value if value is not None else state(name) != before, key
    assert tab.inner_text(".dk-count") != "1200 of 1200" and "\u2715" in tab.locator(".dk-card i").all_inner_texts()
    tab.keyboard.press("Enter")
    assert tab.is_visible(".dk-large")
    tab.keyboard.press("Escape"), tab.keyboard.press("?")
    assert tab.is_visible("text=first picture, large")
    tab.keyboard.press("Escape"), tab.keyboard.press("p")
    tab.wait_for_selector(".dk-picture")
    tab.keyboard.press("Escape")
    took = tab.evaluate("(() => { const box = document.querySelector('input[type=search]'), t = performance.now(); for (const text of ['c', 'ca', 'car']) { box.value = text; box.dispatchEvent(new Event('input')); } return (performance.now() - t) / 3; })()")
    assert took < 200  # milliseconds a keystroke, on a busy machine


def test_tags_of_replies_are_marked_drawn_and_lit_wherever_they_stand(opened, quiz, tmp_path):
    rows = [{"id": quiz[1].id, "reply": "the car <c7,CAM_FRONT,0.75,0.5>, yes, <c7,CAM_FRONT,0.75,0.5>"}]
    tab = opened(B.QuestionBrowser(quiz, {"<b>student": rows}, {"id": quiz[1].id}).to_html(tmp_path / "q.html").read_text())
    ring = tab.locator(".dk-point[data-tag='<c7,CAM_FRONT,0.75,0.5>']")
    assert tab.locator("[data-by='<b>student'] mark").count() == 2 and ring.get_attribute("style") == "left:75.00%;top:50.00%" and "only in replies: <b>student" == ring.get_attribute("title")
    tab.locator("[data-by='<b>student'] mark").last.focus()
    assert "dk-lit" in ring.get_attribute("class")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.className") == "dk-questions"  # not lost with the card


@pytest.mark.slow
def test_a_picture_that_comes_late_takes_the_place_of_its_sentence(opened, quiz):
    browser = B.QuestionBrowser(quiz)
    data = B.packed(browser.header(), [None] * len(browser.entries.pictures))
    replies = {i: reply_to(browser.answer, {"kind": "picture", "index": i}) for i in range(len(browser.entries.pictures))}
    page = with_kernel("questions", data, f"(replies => m => replies[m.index])({json.dumps(replies)})").replace("asks: true", "asks: true, patience: 0.2").replace("setTimeout(() => listeners", "setTimeout(() => globalThis.open === true && listeners")
    tab = opened(page.replace("send: m => {", "send: m => { (globalThis.late ??= []).push(() => listeners[\"msg:custom\"]({...reply(m), id: m.id}));"))
    tab.wait_for_selector(".dk-album .dk-why:text('no answer within 0.2 seconds')")
    assert tab.locator(".dk-album img").count() == 0
    tab.evaluate("late.forEach(answer => answer())")
    tab.wait_for_selector(".dk-album img[src^='data:image/jpeg;base64,']")
    assert "no answer within" not in tab.inner_text(".dk-album")


def test_in_jupyter_pictures_are_asked_for_by_number_when_their_question_is_opened(opened, quiz):
    browser = B.QuestionBrowser(quiz)
    data = B.packed(browser.header(), [None] * len(browser.entries.pictures))
    replies = {i: reply_to(browser.answer, {"kind": "picture", "index": i}) for i in range(len(browser.entries.pictures))}
    tab = opened(with_kernel("questions", data, f"(replies => m => replies[m.index])({json.dumps(replies)})"))
    tab.wait_for_selector(".dk-album img[src^='data:image/jpeg;base64,']")
    tab.wait_for_selector("text=there is no picture")
    assert {m["kind"] for m in tab.evaluate("sent")} == {"picture"} and tab.locator(".dk-point").count() == len(browser.entries.rows[0]["tags"])
    tab.click("text=What about </s>")
    assert tab.evaluate("model.get('view').id") == "q1" and tab.evaluate("sent.length") == len(browser.entries.pictures)  # each once


# --- keys inside a view belong to it


@pytest.mark.parametrize("name", ["attention", "conflicts", "dashboard", "prestudy", "questions"])
def test_keys_that_are_pressed_in_a_view_do_not_reach_its_notebook_but_chords_do(browser, watch, tmp_path, name):
    "JupyterLab listens on the document: `b` inserts a cell, `x` cuts it."
    path, tab = tmp_path / "page.html", browser.new_page()
    boot = """const heard = globalThis.heard = []; document.addEventListener("keydown", e => { heard.push((e.ctrlKey ? "Ctrl+" : "") + e.key); e.preventDefault(); });
      const box = frame(document.getElementById("dk-host"), "x"), inner = button("inner", () => {}); box.body.append(inner); inner.focus(); globalThis.box = box;"""
    path.write_text(P.page("x", P.front(name), b"").replace(P._BOOT, boot), encoding="utf-8")
    wrong = watch(tab, [])
    tab.goto(path.as_uri())
    for key in ("b", "x", "Enter", "ArrowDown", "Escape", " ", "Control+s"): tab.keyboard.press(key)
    assert tab.evaluate("heard") == ["Ctrl+Control", "Ctrl+s"]
    tab.evaluate("(heard.length = 0, box.open('Keys', 'words'))")
    for key in ("b", "Control+s", "Escape"): tab.keyboard.press(key)
    assert tab.evaluate("heard").pop() == "Ctrl+s" and "b" not in tab.evaluate("heard") and not tab.is_visible(".dk-over")
    tab.close()
    assert wrong == []
