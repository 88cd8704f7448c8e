"Every planned run is accounted for, whatever ends a sweep; what is done is not done again."
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_runner import notebook, wait_for

from drivekd.distill.capabilities import PRESETS
from drivekd.runs import identity as identity_module
from drivekd.runs import plans as plans_module
from drivekd.runs.identity import identity, named_data
from drivekd.runs.parameters import RunError
from drivekd.runs.plans import (
    Planned,
    State,
    forecast,
    identities,
    main,
    planned_runs,
    pool,
    read_plan,
    slots_in_use,
    slots_of,
    state_of,
    states,
    sweep,
    write_sweep,
)
from drivekd.runs.runner import HOST, project_root, read_status
from drivekd.runs.tables import read_claims, read_runs

PARAMETERS = "x: int = 1\npause: float = 0.0\nseed: int = 0"
WORK = """import time
from pathlib import Path
from drivekd.runs.report import write_result
from drivekd.runs.runner import run_folder
with (run_folder('t').parent / 'made.txt').open('a') as file: file.write(f'{x} {seed}\\n')
time.sleep(pause)
if x < 0: raise ValueError('x is negative')
write_result(run_folder('t'), {'x': x}, {'x': x}, seed)"""


@pytest.fixture
def plan(tmp_path):
    "Writes a plan and reads it."
    def write(**values):
        notebook(tmp_path / "t.ipynb", PARAMETERS, WORK)
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"notebook": "t.ipynb"} | values))
        return read_plan(tmp_path / "plan.yaml")
    return write


def made(folder): return sorted((folder / "made.txt").read_text().splitlines())


# --- what is planned

@given(st.lists(st.integers(1, 3), max_size=3), st.integers(0, 3), st.integers(0, 2))
def test_a_plan_is_every_combination_with_every_seed(sizes, seeds, single):
    grid = {f"p{i}": list(range(n)) for i, n in enumerate(sizes)}
    runs = planned_runs(grid, list(range(seeds)), {"common": 1}, {f"single {i}": {"p9": i} for i in range(single)})
    combinations = (math.prod(sizes) if sizes else 0) + single or 1
    assert len(runs) == len({r.name for r in runs}) == combinations * max(1, seeds)
    assert all(r.parameters["common"] == 1 for r in runs)


@pytest.mark.parametrize("values, reason", [
    (dict(grid={"y": [1]}), "unknown parameter 'y'"), (dict(grid={"x": 3}), "grid.x .* takes a list"), (dict(repeat=3), "unknown key 'repeat'"),
    (dict(grid={"x": ["a"]}), "takes a whole number"), (dict(runs={"one run": {}, "one-run": {}}), "would be called one-run"),
    (dict(parameters={"hf_token": "x"}), "credential"), (dict(seeds=5), "seeds of .* takes a list of whole numbers, found 5"), (dict(seeds=["a"]), "whole numbers, found 'a'"), (dict(runs=["a"]), "runs of .* takes names and"),
    (dict(grid=[1]), "grid of .* takes names and lists"), (dict(parameters=3), "parameters of .* takes names and values"), (dict(runs={"a": [1]}), "runs.a of .* takes names and values, found .1.")])
def test_a_wrong_plan_is_refused_before_anything_starts(plan, tmp_path, values, reason):
    with pytest.raises(RunError, match=reason): plan(**values)
    assert {p.name for p in tmp_path.iterdir()} == {"t.ipynb", "plan.yaml"}


def test_a_run_without_parameters_of_its_own_is_a_run(plan):
    assert [r.parameters for r in plan(runs={"ce": None}, parameters={"x": 2}).runs] == [{"x": 2}]


def test_a_name_is_one_folder_below_the_sweep(plan):
    assert [r.name for r in plan(runs={"../../etc": {}, "a/b": {}}).runs] == ["etc", "a-b"]


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 64))
def test_slots_share_cores_and_keep_gpus_apart(jobs, gpus, cores):
    slots = slots_of(jobs, [str(i) for i in range(gpus)], cores=cores)
    assert len(slots) == jobs and sum(int(s["OMP_NUM_THREADS"]) for s in slots) <= max(cores, jobs)
    shown = [s["CUDA_VISIBLE_DEVICES"] for s in slots if "CUDA_VISIBLE_DEVICES" in s]
    assert len(set(shown)) == min(jobs, gpus) and bool(shown) == bool(gpus)


def test_too_few_gpus_for_one_run_are_refused():
    with pytest.raises(RunError, match="takes 4 GPUs, found 2"): slots_of(None, ["0", "1"], gpus_per_run=4)


def test_a_forecast_without_experience_says_so():
    assert "known after the first" in forecast([State("a", "missing")], 1)


# --- what is the same run

def test_code_data_and_parameters_decide_prose_does_not(tmp_path):
    def cell(source, kind="code"): return {"cell_type": kind, "source": source}
    (tmp_path / "q.json").write_text("[]")
    base = [cell("# Title", "markdown"), cell("data: str = ''"), cell("print(data)")]
    def of(cells, **parameters): return identity({"cells": cells}, parameters, tmp_path)
    first = of(base, data="q.json")
    assert of(base[1:], data="q.json") == first
    assert first not in (of(base[:2], data="q.json"), of(base, data="r.json"), of(base, data="q.json", seed=1))
    (tmp_path / "q.json").write_text("[1]")
    assert of(base, data="q.json") != first


@pytest.mark.parametrize("file", ["runs/x.py", "workbench/front/x.js"])
def test_the_front_end_is_part_of_the_code(tmp_path, monkeypatch, file):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("1")
    monkeypatch.setattr(identity_module.drivekd, "__file__", str(tmp_path / "__init__.py"))
    first = identity_module.code_version()
    (tmp_path / file).write_text("2")
    assert identity_module.code_version() != first


FORMS = {  # value → what it names of the folders a, b, c and "with, blank"
    "a": ["a"], "with, blank": ["with, blank"], "a b": ["a", "b"], "a,b": ["a", "b"], "a, b": ["a", "b"], "find=a count=b": ["a", "b"],
    "a org/model-1B": ["a"], "?": ["a", "b", "c"], "a [bc]": ["a", "b", "c"], "{project}/b {project}/c": ["b", "c"], "{outside}/d {project}/a": ["d", "a"], "{outside}/*": ["d"]}


@pytest.fixture
def places(tmp_path, monkeypatch):
    "A project that is worked in, and a folder outside; each folder holds one file."
    for folder in ("project/a", "project/b", "project/c", "project/with, blank", "outside/d"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.json").write_text("1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the project is found from any working folder
    return tmp_path


@pytest.mark.parametrize("value, names", FORMS.items())
def test_every_file_and_folder_that_a_value_names_counts(places, value, names):
    value = value.format(project=places / "project", outside=places / "outside")
    def of(): return identity({"cells": []}, {"folders": value}, places / "project")
    assert [path.name for _, path in named_data({"folders": value}, places / "project")] == names
    for name in names:
        first, file = of(), next(places.glob(f"*/{name}/x.json"))
        file.write_text(file.read_text() + "1")
        assert of() != first


def test_a_folder_that_a_pattern_begins_to_match_makes_another_run(places):
    def of(): return identity({"cells": []}, {"folders": "a*"}, places / "project")
    first = of()
    (places / "project" / "a2").mkdir()
    assert of() != first


@pytest.mark.parametrize("value", ["Table a of the {outside}/d study", "what is b / c", "0.27 / 1.10", "* a red car", "prefix=/", "see .. for {outside}/*", "word " * 100_000, "x" * 300])
def test_prose_names_no_data(places, value):
    assert not list(named_data({"title": value.format(outside=places / "outside")}, places / "project"))


def test_what_runs_write_counts_by_its_path_and_what_they_read_by_its_content(tmp_path):
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "answers: str = 'outputs/answers'\nmodel: str = 'data/student'\nworlds: str = 'outputs'"}
    for name in ("kept", "checkpoint"): (tmp_path / name).mkdir()
    def of(**parameters): return identity({"cells": [cell]}, {"answers": "kept", "model": "checkpoint"} | parameters, tmp_path)
    first = of()
    (tmp_path / "kept" / "a.jsonl").write_text("{}")
    assert of() == first and of(answers="elsewhere") != first
    (tmp_path / "checkpoint" / "model.safetensors").write_text("0")
    assert of() != first


# --- what becomes of a sweep

def test_a_failed_run_stops_no_other_and_alone_is_tried_again(plan, tmp_path, capsys):
    out = tmp_path / "out"
    plan(grid={"x": [-1, 1]})
    assert main([str(tmp_path / "plan.yaml"), "--out", str(out), "--jobs", "2"]) == 1
    listed = json.loads((out / "sweep.json").read_text())["runs"]
    assert {r["parameters"]["x"]: r["status"] for r in listed} == {-1: "failed", 1: "ok"}
    assert "x is negative (ValueError)" in capsys.readouterr().out
    assert main([str(tmp_path / "plan.yaml"), "--out", str(out)]) == 1
    assert made(out) == ["-1 0", "-1 0", "1 0"]


def test_a_run_of_another_plan_is_outdated_and_made_again(plan, tmp_path):
    out = tmp_path / "out"
    assert [s.status for s in sweep(plan(runs={"only": {"x": 1}}), out)] == ["ok"]
    changed = plan(runs={"only": {"x": 2}, "second": {"x": 3}})
    assert [s.status for s in states(changed, out, identities(changed))] == ["outdated", "missing"]
    listed = (out / "sweep.json").read_text()
    with pytest.raises(RunError, match=r"1 runs with results or checkpoints .* \(only\); add --replace-outdated"): sweep(changed, out)
    assert (out / "sweep.json").read_text() == listed
    assert json.loads((out / "only" / "result.json").read_text())["metrics"] == {"x": 1}, "nothing was touched"
    assert [s.status for s in sweep(changed, out, replace_outdated=True)] == ["ok", "ok"]
    assert json.loads((out / "only" / "result.json").read_text())["metrics"] == {"x": 2}


def test_a_run_without_its_result_is_made_again(plan, tmp_path):
    one, out = plan(runs={"only": {}}), tmp_path / "out"
    sweep(one, out)
    (out / "only" / "result.json").unlink()
    assert [(s.status, s.note) for s in states(one, out, identities(one))] == [("failed", "its result.json is gone")] and list(read_runs([out]).others.values()) == ["its result.json is gone"]
    assert [s.status for s in sweep(one, out)] == ["ok"] and (out / "only" / "result.json").exists()
    (out / "only" / "result.json").unlink()
    (out / "only" / "checkpoints" / "ce").mkdir(parents=True)
    with pytest.raises(RunError, match="add --replace-outdated"): sweep(plan(runs={"only": {"x": 2}}), out)


def test_an_unfinished_run_of_other_code_keeps_its_checkpoints_unless_told(plan, tmp_path):
    one, out = plan(runs={"only": {}}), tmp_path / "out"
    going_on(out / "only", status="timeout")
    sweep_refuses = pytest.raises(RunError, match=r"1 runs with results or checkpoints .* \(only\)")
    (out / "only" / "checkpoints" / "ce" / "checkpoint-2400").mkdir(parents=True)
    with sweep_refuses: sweep(one, out)
    assert (out / "only" / "checkpoints").is_dir() and not (out / "sweep.json").exists()
    assert [s.status for s in sweep(one, out, replace_outdated=True)] == ["ok"] and not (out / "only" / "checkpoints").exists()


def test_a_run_that_refuses_its_parameters_is_listed_with_the_reason(plan, tmp_path):
    (tmp_path / "out").mkdir()
    refusing = plan(runs={"a": {"x": 1}, "b": {"x": 2}})
    (tmp_path / "out" / ".plan").mkdir()
    (tmp_path / "out" / ".plan" / "b.log").write_text("[1/2]\ndrivekd run: there is no checkpoint at /nowhere\n")
    found = states(refusing, tmp_path / "out", identities(refusing))
    assert [(s.status, s.note) for s in found] == [("missing", ""), ("refused", "there is no checkpoint at /nowhere")]
    write_sweep(refusing, tmp_path / "out", found)
    assert read_runs([tmp_path / "out"]).others == {"out/a": "missing", "out/b": "refused: there is no checkpoint at /nowhere"}


def command(tmp_path): return [sys.executable, "-m", "drivekd.cli", "sweep", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--jobs", "2"]


@pytest.mark.parametrize("number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGTERM))])
def test_a_sweep_that_was_ended_goes_on_where_it_was(plan, tmp_path, number):
    def planned(pause): return plan(runs={"a quick one": {}, "b slow one": {"pause": pause}})
    running, out = planned(600.0), tmp_path / "out"
    command = [sys.executable, "-m", "drivekd.cli", "sweep", str(tmp_path / "plan.yaml"), "--out", str(out)]
    background = None if number == signal.SIGINT else lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's `&` does
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=background)
    wait_for(lambda: (out / "made.txt").exists() and len(made(out)) == 2)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    if number != signal.SIGKILL: assert process.returncode == 130 and "the same command goes on" in said
    else: os.kill(wait_for(lambda: (read_status(out / "b-slow-one") or {}).get("pid")), signal.SIGKILL)  # its machine went down, too
    assert wait_for(lambda: [s.status for s in states(running, out, identities(running))] == ["ok", "killed"])
    assert [s.status for s in sweep(planned(0.0), out)] == ["ok", "ok"]
    assert made(out) == ["1 0", "1 0", "1 0"]  # the quick one once


def test_a_signal_while_a_run_ends_is_not_lost(plan, tmp_path, monkeypatch):
    deleted, two = [], plan(runs={"a": {}, "b": {}})
    monkeypatch.setattr("drivekd.runs.plans._start", lambda *_: subprocess.Popen(["true"]))
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda process: deleted.extend(process.args if process.args == ["true"] else ()))  # what is raised here, Python ignores
    pool(two, two.runs, tmp_path, [{}], watch=lambda: deleted and pytest.fail("a process was deleted while the pool is at work"), pause=.05)


@pytest.fixture
def handed(monkeypatch):
    "A cluster that notes what it is asked for and which runs it is given; its jobs have ended at once."
    class AutoExecutor:
        asked, runs, left = {}, [], set()  # `left`: jobs that are over
        def __init__(self, folder, cluster): pass
        def update_parameters(self, **options): self.asked.update(options)
        def map_array(self, job, commands, logs):
            names = [Path(c[c.index("--out") + 1]).name for c in commands]
            self.runs.extend(names)
            return [SimpleNamespace(job_id=f"7_{name}", done=lambda: True) for name in names]
    ended = lambda folder, job: SimpleNamespace(done=lambda force_check: job in AutoExecutor.left)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=AutoExecutor, SlurmJob=ended))
    return AutoExecutor


def going_on(folder, pid=1, host="another machine", status="running"):
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": status, "pid": pid, "host": host}))


def test_jobs_of_a_cluster_make_the_same_runs(plan, tmp_path):
    found = sweep(plan(seeds=[0, 1], timeout=300), tmp_path / "out", cluster="local")
    assert [s.status for s in found] == ["ok", "ok"] and made(tmp_path / "out") == ["1 0", "1 1"]


@pytest.mark.parametrize("values, asked", [
    (dict(timeout=3600), dict(gpus_per_node=1, timeout_min=60 + plans_module.MARGIN)), (dict(timeout=3601, gpus_per_run=4), dict(gpus_per_node=4, timeout_min=61 + plans_module.MARGIN)),
    (dict(timeout=60, gpus_per_run=0), dict(timeout_min=1 + plans_module.MARGIN)), (dict(slurm=dict(timeout_min=7, gpus_per_node=2)), dict(gpus_per_node=2, timeout_min=7)),
    (dict(timeout=60, slurm=dict(mem_gb=8, timeout_min=90)), dict(gpus_per_node=1, mem_gb=8, timeout_min=90)), (dict(slurm=dict(slurm_time="1-00")), dict(gpus_per_node=1, slurm_time="1-00"))])
def test_a_job_asks_for_the_gpus_and_the_time_of_a_run_unless_the_plan_says_otherwise(plan, tmp_path, handed, values, asked):
    sweep(plan(**values), tmp_path / "out", cluster="slurm")
    assert handed.asked == {"name": "plan"} | asked and handed.runs == ["run"]


def test_jobs_without_a_time_limit_are_refused(plan, tmp_path, handed, capsys):
    plan()
    assert main([str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--slurm"]) == 2
    assert "timeout" in capsys.readouterr().err and not handed.runs and not (tmp_path / "out").exists()


@pytest.mark.parametrize("cluster", ["slurm", None])
def test_a_run_that_goes_on_elsewhere_is_not_made_a_second_time(plan, tmp_path, handed, monkeypatch, cluster):
    monkeypatch.setattr("drivekd.runs.plans.pool", lambda plan, todo, *_: handed.runs.extend(r.name for r in todo))
    going_on(tmp_path / "out" / "a")
    found = sweep(plan(runs={"a": {}, "b": {}}, timeout=60), tmp_path / "out", cluster=cluster)
    assert handed.runs == ["b"] and [s.status for s in found] == ["running", "missing"]


@pytest.mark.parametrize("gpu, others", [("1", ["0", "2"]), ("7", ["0", "1", "2"])])
def test_a_run_that_a_killed_sweep_has_left_keeps_its_gpu_until_it_ends(plan, tmp_path, gpu, others):
    two, slots = plan(runs={"a": {}, "b": {}}), [{"CUDA_VISIBLE_DEVICES": g} for g in "012"]
    going_on(tmp_path / "a", subprocess.Popen(["sleep", "60"]).pid, HOST)
    (tmp_path / ".plan").mkdir()
    (tmp_path / ".plan" / "a.slot").write_text(json.dumps({"CUDA_VISIBLE_DEVICES": gpu}))
    used = [s["CUDA_VISIBLE_DEVICES"] for s in slots_in_use(two, tmp_path, slots).values()]
    assert [g for g in "012" if g not in used] == others


def test_a_run_without_a_slot_waits_for_one_that_was_left(plan, tmp_path, monkeypatch):
    two, left, begun = plan(runs={"a": {}, "b": {}}), subprocess.Popen(["sleep", "60"]), []
    going_on(tmp_path / "a", left.pid, HOST)
    (tmp_path / ".plan").mkdir()
    (tmp_path / ".plan" / "a.slot").write_text("{}")
    monkeypatch.setattr("drivekd.runs.plans._start", lambda *_: begun.append(left.poll()) or subprocess.Popen(["true"]))
    looks = iter([lambda: None, left.kill, left.wait, *[lambda: None] * 20])
    pool(two, two.runs[1:], tmp_path, [{}], watch=lambda: next(looks)(), pause=.02)
    assert begun == [-signal.SIGKILL]


def test_a_job_that_has_not_begun_is_not_handed_over_a_second_time(plan, tmp_path, handed, monkeypatch):
    two, out = plan(runs={"a": {}, "b": {}}, timeout=60), tmp_path / "out"
    def interrupted(*_): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr("drivekd.runs.plans._wait", interrupted)
        with pytest.raises(KeyboardInterrupt): sweep(two, out, cluster="slurm")
    assert [(s.status, s.note) for s in states(two, out, identities(two))] == [("queued", "job 7_a"), ("queued", "job 7_b")]
    handed.left.add("7_b")  # cancelled
    assert [s.status for s in sweep(two, out, cluster="slurm")] == ["queued", "missing"] and handed.runs == ["a", "b", "b"]
    going_on(out / "a", os.getpid(), HOST)
    os.utime(out / ".plan" / "a.job", (0, 0))
    assert states(two, out, identities(two))[0].status == "running"


def test_whatever_ends_a_sweep_ends_its_runs(plan, tmp_path, monkeypatch):
    one, begun = plan(), []
    monkeypatch.setattr("drivekd.runs.plans._start", lambda *_: begun.append(subprocess.Popen(["sleep", "60"])) or begun[0])
    def full(): raise OSError("no space left")
    with pytest.raises(OSError, match="no space"): pool(one, one.runs, tmp_path, [{}], watch=full)
    assert begun[0].returncode == -signal.SIGTERM


def test_an_interrupted_sweep_on_a_cluster_says_that_its_jobs_go_on(plan, tmp_path, handed, monkeypatch, capsys):
    def interrupted(*_): raise KeyboardInterrupt
    monkeypatch.setattr("drivekd.runs.plans._wait", interrupted)
    plan(timeout=60)
    assert main([str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--slurm"]) == 130
    said = capsys.readouterr().err
    assert "jobs" in said and "go on" in said and "after they end" in said


@pytest.mark.parametrize("values", [dict(timeout="1h"), dict(timeout=-1), dict(timeout=True), dict(gpus_per_run=1.5), dict(gpus_per_run=-1)])
def test_times_and_gpus_that_are_no_numbers_are_refused(plan, values):
    with pytest.raises(RunError, match=f"{[*values][0]} of .*plan.yaml takes"): plan(**values)


def test_a_run_without_gpus_sees_none():
    assert slots_of(None, ["0", "1"], gpus_per_run=0, cores=8) == [{"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": ""}]


def test_without_submitit_the_way_out_is_named(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RunError, match=r"install drivekd\[slurm\]"): sweep(plan(timeout=60), tmp_path / "out", cluster="slurm")


def test_a_dry_run_starts_nothing(plan, tmp_path, capsys):
    plan(grid={"x": [1, 2]}, seeds=[0, 1])
    assert main([str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "4 runs: 4 missing" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_dry_run_names_files_that_are_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(project_root())
    (tmp_path / "here.json").write_text("[]")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"notebook": "student", "runs": {"a": {"data": str(tmp_path / "here.json"), "student": "data/miniature/nobody"}, "b": {"image_root": "frames/", "teacher": "OpenGVLab/InternVL3-8B-hf"}}}))
    assert main([str(tmp_path / "p.yaml"), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("not there yet:\n  image_root: frames/\n  student: data/miniature/nobody\na ")


def test_planned_runs_keep_their_types(plan):
    assert plan(runs={"a": {"x": 2, "pause": 1}}).runs == (Planned("a", {"x": 2, "pause": 1}),)


def test_a_run_that_deletes_checkpoints_while_it_is_looked_at_stops_no_sweep(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    (folder / "checkpoint-100").mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": "running", "pid": os.getpid(), "identity": "x"}))
    monkeypatch.setattr(Path, "rglob", lambda *_: (_ for _ in ()).throw(FileNotFoundError("checkpoint-100")))
    assert state_of(Planned("run", {}), tmp_path, "x").status == "running"


PLANS = {path.stem: path for path in sorted((project_root() / "nbs" / "runs" / "plans").glob("*.yaml")) if not path.stem.startswith("claims")}


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_can_be_read_and_names_recipes_that_exist(name):
    plan = read_plan(PLANS[name])
    assert {run.parameters["seed"] for run in plan.runs} == ({6, 7, 8, 9, 10} if name.startswith("again") else {1, 2, 3, 4, 5})
    assert {run.parameters["recipe"] for run in plan.runs} <= set(PRESETS)


@pytest.mark.parametrize("name", PLANS)
def test_the_commands_beside_a_plan_name_what_it_plans(name):
    text = PLANS[name].read_text()
    baselines, named = re.findall(r"baseline=(\S+)", text), re.findall(r"nbs/runs/plans/(\S+)\.yaml", text)
    assert set(baselines) <= variants(*PLANS) and all((project_root() / "nbs" / "runs" / "plans" / f"{n}.yaml").exists() for n in named) and name in named


def variants(*plans): return {run.name.rsplit("-s", 1)[0] for plan in plans for run in read_plan(PLANS[plan]).runs}


def test_every_variant_of_a_claim_is_planned():
    named, shares = ({v for c in read_claims(project_root() / "nbs" / "runs" / "plans" / f"{name}.yaml") for part in c.parts for v in part[:2]} for name in ("claims", "claims-share"))
    assert named <= variants("table2-miniature", "table3-miniature") and named - variants("table3") == {"agp-small-teachers"}, "at full size table 2 is a grid of checkpoints"
    assert shares <= variants("again-miniature-qwen") and shares <= variants("table3-miniature-qwen", "answers-share-miniature-qwen")
