"""A run is `ok` only if it truly finished; whatever else happens is named, and nothing private is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import Timeout

from drivekd.runs import runner
from drivekd.runs.parameters import RunError, declared, is_credential_name, load_notebook, read_cell, read_yaml, resolve, split_pairs
from drivekd.runs.privacy import clean_folder, redact, secret_values, short_paths
from drivekd.runs.runner import main, read_status, run, signals_interrupt

WRITE = """from drivekd.runs.report import write_result
from drivekd.runs.runner import run_folder
write_result(run_folder('t'), {'x': x}, {'x': x}, 0)"""
PARAMETERS = "x: int = 1  # a number\nlr: float = 0.1\nname: str = 'a'\nlayers: list[int] = [1]\nstop: int | None = None"
KEY = "hf_" + "aB3" * 10


def notebook(path, *sources, tags=("parameters",)):
    """A notebook with one code cell per source; the first carries the tags."""
    cells = [{"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# A title"}]
    cells += [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "source": s,
            "outputs": [],
            "execution_count": 7,
            "metadata": {"tags": list(tags)} if i == 0 else {},
        }
        for i, s in enumerate(sources)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return path


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


# --- a run that works: one run, many claims


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Spaces and braces in paths and values, keys in the output, a progress bar, a trap kernelspec and start-up file in the home folder."""
    base = tmp_path_factory.mktemp("run with {braces} and spaces")
    kernel = base / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "trap", "language": "python"}))
    startup = base / "home" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('user start-up file was run')")
    show = (
        "import os, sys, matplotlib\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(5), desc='bar', mininterval=0): pass\n"
        "import logging; logging.getLogger('huggingface_hub.utils._http').warning('Retrying in 1s [Retry 1/5].')\n"
        f"print('KEY {KEY}', os.environ['MY_API_TOKEN'], os.getcwd(), os.path.expanduser('~'))\n"
        "print(name, matplotlib.get_backend(), sys.executable)"
    )
    path = notebook(base / "my notebook.ipynb", PARAMETERS, show, WRITE)
    before = dict(os.environ), os.getcwd()
    os.environ |= {"HOME": str(base / "home"), "MY_API_TOKEN": "correct horse battery"}
    os.chdir(base)
    try:
        yield run(path, {"lr": 1}, "out {name}", texts={"name": "{x} } %s", "layers": "[3, 4]"})
    finally:
        os.chdir(before[1])
        os.environ.clear()
        os.environ.update(before[0])


def outputs(result):
    cells = json.loads((result.folder / "notebook.ipynb").read_text())["cells"]
    return "\n".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


def test_finished_run_is_ok_with_exit_code_0_and_the_whole_folder(good):
    assert good.ok, good.error
    assert good.exit_code == 0 and sorted(p.name for p in good.folder.iterdir()) == [
        "notebook.ipynb",
        "params.yaml",
        "result.json",
        "status.json",
    ]
    status = json.loads((good.folder / "status.json").read_text())
    assert (status["status"], status["exit_code"], status["error"]) == ("ok", 0, None) and status["seconds"] > 0


def test_params_file_holds_every_parameter_typed_and_can_be_given_back(good):
    values = read_yaml(good.folder / "params.yaml")
    assert values == {"x": 1, "lr": 1.0, "name": "{x} } %s", "layers": [3, 4], "stop": None} and isinstance(values["lr"], float)
    assert resolve(read_cell(PARAMETERS), values) == values


def test_braces_in_a_value_reach_the_notebook_as_they_are(good):
    assert "{x} } %s" in outputs(good)


def test_keys_are_blacked_out_and_counted(good):
    kept = "".join(p.read_text() for p in good.folder.iterdir())
    assert (
        KEY not in kept and "correct horse" not in kept and good.redacted == {"notebook.ipynb": 3}
    )  # in the source, the output, and a value of the environment


def test_nothing_kept_names_the_users_folders(good):
    kept = "".join(p.read_text() for p in good.folder.iterdir())
    assert str(Path.home()) not in kept and str(good.folder.parent) not in kept and sys.prefix not in kept
    meta = json.loads((good.folder / "notebook.ipynb").read_text())["metadata"]["papermill"]
    assert meta["input_path"] == "my notebook.ipynb" and meta["output_path"] == "notebook.ipynb"


def test_kernel_is_this_python_without_the_users_startup_files(good):
    assert "agg" in outputs(good).lower() and "<python>/bin/" in outputs(good)


def test_retries_of_the_hub_are_not_told_one_by_one(good):
    assert "KEY" in outputs(good) and "Retrying" not in outputs(good)


def test_progress_bars_are_text_and_kept_as_one_line(good):
    bars = [line for line in outputs(good).splitlines() if line.startswith("bar:")]
    assert len(bars) == 1 and "5/5" in bars[0] and "\r" not in outputs(good)


def test_result_records_where_it_came_from(good):
    result = json.loads((good.folder / "result.json").read_text())
    assert result["schema"] == 1 and result["metrics"] == {"x": 1} and {"versions", "git", "data", "params", "seed"} < set(result)


# --- runs that do not work


@pytest.mark.parametrize(
    "source, error, cell",
    [
        (
            "raise ValueError('no question has capability planning;\\n add some')",
            "no question has capability planning; add some (ValueError)",
            2,
        ),
        ("import os; os._exit(0)", "the notebook's process died", 2),
        ("import sys; sys.exit(0)", "ended itself with sys.exit()", 2),
    ],
    ids=["raises", "dies", "exits"],
)
def test_a_notebook_that_stops_early_has_failed_and_later_cells_are_pending(tmp_path, source, error, cell):
    fake = "from drivekd.runs.runner import run_folder\n(run_folder('t') / 'result.json').write_text('{\"metrics\": {}}')"
    result = run(notebook(tmp_path / "n.ipynb", "x = 1\n", f"{fake}\n{source}", "print('never')"), out=tmp_path / "out")
    assert (result.status, result.exit_code, result.cell, result.cells) == ("failed", 1, cell, 3) and error in result.error
    cells = json.loads((tmp_path / "out" / "notebook.ipynb").read_text())["cells"]
    states = [c["metadata"]["papermill"]["status"] for c in cells if c["cell_type"] == "code"]
    assert states[-2:] == ["failed", "pending"] and "never" not in outputs(result)


def test_without_a_result_a_run_has_failed(tmp_path):
    result = run(notebook(tmp_path / "n.ipynb", "x = 1\n", "pass"), out=tmp_path / "out")
    assert result.status == "failed" and "without writing result.json" in result.error


@pytest.mark.parametrize(
    "text, error", [("{", "not readable JSON"), ("[]", "holds no metrics"), ("{}", "holds no metrics"), ("\udcff", "not readable JSON")]
)
def test_a_result_that_does_not_parse_does_not_count(tmp_path, text, error):
    (tmp_path / "result.json").write_text(text, errors="surrogateescape")
    said, cell = runner.verdict(
        [{"cell_type": "code", "source": "x", "execution_count": 1, "outputs": []}], {}, 0, tmp_path / "result.json"
    )
    assert error in said and cell == 0


def test_time_limit_ends_every_process_the_run_has_started(tmp_path):
    """The kernel, its child and a grandchild in a session of its own."""
    start = (
        "import subprocess, pathlib, time\na = subprocess.Popen(['sleep', '300'])\n"
        "b = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        f"pathlib.Path({str(tmp_path / 'pids')!r}).write_text(f'{{a.pid}} {{b.pid}}')\nprint('working', flush=True)\ntime.sleep(300)"
    )
    begin = time.monotonic()
    result = run(notebook(tmp_path / "n.ipynb", "x = 1\n", start, "print('never')"), out=tmp_path / "out", timeout=15)
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    assert (result.status, result.exit_code, result.cell) == ("timeout", 124, 2) and "time limit" in result.error
    assert time.monotonic() - begin < 40 and not any(map(alive, pids))
    assert "working" in outputs(result)  # what was done until then is kept
    assert not any(str(tmp_path) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))


@pytest.fixture
def running(tmp_path):
    """The command as a process of its own, inside a long cell."""
    path = notebook(
        tmp_path / "n.ipynb",
        "x = 1\n",
        f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(300)",
    )
    code = "import sys; from drivekd.runs.runner import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    kernel = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    yield process, kernel, tmp_path / "out"
    process.kill()
    process.communicate()


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt(): signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with signals_interrupt(), pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGTERM)
    finally: signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupting_the_command_leaves_a_true_status_and_no_process(running, number):
    process, kernel, out = running
    assert read_status(out)["status"] == "running"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and not alive(kernel) and "Traceback" not in stderr and "killed: the run was interrupted" in stderr
    assert "[1/2] A title\n[2/2]\n" in stderr  # a heading is said once
    status = json.loads((out / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("killed", 130) and (out / "notebook.ipynb").exists()


def test_a_killed_command_takes_the_notebook_with_it_and_is_not_taken_for_running(running):
    process, kernel, out = running
    process.kill()
    assert "Parent appears to have exited" not in process.communicate(timeout=60)[1]
    wait_for(lambda: not alive(kernel), 20)
    assert read_status(out)["status"] == "killed" and not (out / "notebook.ipynb").exists()


def of_host(folder, host, pid, age=0.0):
    """The status of a run that was written so many seconds ago on that machine."""
    folder.mkdir()
    path = folder / "status.json"
    path.write_text(json.dumps({"status": "running", "pid": pid, "host": host, "identity": "x"}))
    os.utime(path, (time.time() - age,) * 2)
    return folder


GONE = 2**22 + 7  # above Linux's largest process number


@pytest.mark.parametrize(
    "host, pid, age, found",
    [
        (runner.HOST, os.getpid(), 3600, "running"),  # here the process is asked, not the clock
        (runner.HOST, GONE, 0, "killed"),
        ("elsewhere", GONE, 3, "running"),
        ("elsewhere", os.getpid(), runner.STALE + 5, "killed"),  # the number is another process there
    ],
    ids=["here and alive", "here and gone", "elsewhere and fresh", "elsewhere and stale"],
)
def test_a_run_of_another_machine_is_judged_by_the_age_of_its_status(tmp_path, host, pid, age, found):
    assert read_status(of_host(tmp_path / "r", host, pid, age))["status"] == found


@pytest.mark.parametrize("began, found", [(0, "running"), (runner.STALE + 5, "killed")], ids=["as old as it was", "another process of the number"])
def test_a_number_that_another_process_has_now_is_no_run(tmp_path, began, found):
    folder = done(tmp_path / "r", "running", os.getpid())
    status = json.loads((folder / "status.json").read_text()) | {"began": psutil.Process().create_time() - began}
    (folder / "status.json").write_text(json.dumps(status))
    assert read_status(folder)["status"] == found


def test_a_folder_is_chosen_and_marked_by_one_run_at_a_time(tmp_path, monkeypatch):
    choose, write, seen = runner.exact_folder, runner.write_status, []
    def taken():
        lock = runner._alone(tmp_path / "run")
        try: lock.acquire(timeout=0)
        except Timeout: return True
        return lock.release()
    monkeypatch.setattr(runner, "exact_folder", lambda *a: seen.append(taken()) or choose(*a))
    monkeypatch.setattr(runner, "write_status", lambda result: seen.append(taken()) or write(result))
    assert run(notebook(tmp_path / "t.ipynb", PARAMETERS, WRITE), out=tmp_path / "run").ok
    assert seen[:2] == [True, True] and not any(seen[2:])


def test_a_status_that_cannot_be_written_for_a_moment_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PULSE", 0.1)
    path, write, failed = notebook(tmp_path / "t.ipynb", PARAMETERS, "import time; time.sleep(2)", WRITE), runner.write_status, []
    def full(result):
        if result.cell == 2 and len(failed) < 3: failed.append(1); raise OSError(28, "No space left on device")
        write(result)
    monkeypatch.setattr(runner, "write_status", full)
    assert run(path, out=tmp_path / "run").ok and len(failed) == 3


def test_a_run_of_another_machine_is_not_taken_over_while_it_goes_on(tmp_path):
    with pytest.raises(RunError, match=f"still running .process {GONE} on elsewhere."):
        runner.exact_folder(of_host(tmp_path / "r", "elsewhere", GONE), force=True, resume="x")
    assert runner.exact_folder(of_host(tmp_path / "s", "elsewhere", os.getpid(), runner.STALE + 5), force=False, resume="x") == tmp_path / "s"


def test_a_run_names_its_machine_only_while_it_goes_on(tmp_path):
    found = {}
    for status in ("running", "ok"):
        runner.write_status(runner.RunResult(status, "t", tmp_path))
        found[status] = json.loads((tmp_path / "status.json").read_text()).get("host")
    assert found == {"running": runner.HOST, "ok": None}


# --- a run goes on with what it has written itself

KEEPS = """import time
from pathlib import Path
from drivekd.runs.report import write_result
from drivekd.runs.runner import run_folder
known = sorted(p.name for p in Path(kept).glob('*'))
Path(kept).mkdir(parents=True, exist_ok=True)
for n in range(3):
    if str(n) not in known:
        (Path(kept) / str(n)).write_text(str(n))
        if n == 1: time.sleep(pause)
write_result(run_folder('t'), {'known': len(known)}, {}, 0)"""


@pytest.fixture
def keeping(tmp_path):
    "A notebook that keeps answers between runs, and the arguments of a run of it."
    path = notebook(tmp_path / "k.ipynb", "kept: str = 'outputs/kept'  # where answers are kept\npause: float = 0.0", KEEPS)
    return path, dict(parameters={"kept": str(tmp_path / "kept")}, out=tmp_path / "out")


def test_a_finished_run_is_kept_though_it_wrote_into_a_folder_that_a_parameter_names(keeping):
    path, arguments = keeping
    first = run(path, **arguments)
    again = run(path, **arguments, resume=True)
    assert first.ok and again.ok and again.started == first.started and json.loads((first.folder / "result.json").read_text())["metrics"]["known"] == 0


@pytest.mark.slow
def test_a_run_that_died_goes_on_with_what_it_had_written(keeping, tmp_path):
    path, arguments = keeping
    values = [f"kept={tmp_path / 'kept'}", "pause=600"]
    code = "import sys; from drivekd.runs.runner import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(path), "--out", str(tmp_path / "out"), *(a for v in values for a in ("-p", v))], stdout=subprocess.DEVNULL)
    wait_for((tmp_path / "kept" / "1").exists)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: read_status(tmp_path / "out")["status"] == "killed")
    done = run(path, arguments["parameters"] | {"pause": 600.0}, arguments["out"], resume=True)
    assert done.ok and json.loads((done.folder / "result.json").read_text())["metrics"]["known"] == 2


# --- runs that are refused before anything starts


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run the command; it must say one sentence, exit with 2 and leave no folder."""
    path = notebook(tmp_path / "n.ipynb", PARAMETERS, WRITE)
    monkeypatch.setattr(runner, "_execute", lambda *a: pytest.fail("a refused run was started"))

    def command(*arguments, source=path):
        assert main([str(source), "--out", str(tmp_path / "out"), *arguments]) == 2
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1 and "Traceback" not in stderr and len(stderr) < 700 and not (tmp_path / "out").exists()
        return stderr

    return command


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["-p", "nmae=b"], "unknown parameter 'nmae'; did you mean name?"),
        (["-p", "zzz=1"], "known: x, lr, name, layers, stop"),
        (["-p", "x=1.5"], "x takes a whole number (default 1), found 1.5"),
        (["-p", "x=true"], "found True"),
        (["-p", "x=1e3"], "whole number"),
        (["-p", "lr=fast"], "lr takes a number"),
        (["-p", "lr=.inf"], "finite"),
        (["-p", "layers=3"], "a list such as [1, 2]"),
        (["-p", "layers=[1"], "not readable as YAML"),
        (["-p", "x"], "name=value"),
        (["-p", "=1"], "name=value"),
        (["-p", "hf_token=abc"], "looks like a credential"),
        (["-p", "apiKey=abc"], "looks like a credential"),
        (["-p", f"name={KEY}"], "looks like an access key"),
        (["-p", "name=https://me:secret@host/x"], "looks like an access key"),
        (["-f", "/nowhere/x.yaml"], "there is no parameter file"),
        (["--timeout", "0"], "positive number of seconds"),
        (["-p", "x=" + "9" * 5000 + "x"], "whole number"),
    ],
)
def test_bad_arguments_are_one_sentence(refused, arguments, says):
    assert says in refused(*arguments)


def test_a_key_of_this_machine_is_refused_as_a_value_and_not_repeated(refused, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    said = refused("-p", "name=0123456789abcdef0123")
    assert "looks like an access key" in said and "0123456789abcdef0123" not in said


@pytest.mark.parametrize(
    "text, says", [("a: [", "not a YAML file"), ("- 1", "`name: value` lines"), ("x: [1]", "whole number"), ("\x00", "not a YAML file")]
)
def test_bad_parameter_files_are_one_sentence(refused, tmp_path, text, says):
    (tmp_path / "p.yaml").write_text(text)
    assert says in refused("-f", str(tmp_path / "p.yaml"))


@pytest.mark.parametrize("cell, says", [("x = len('a')", "plain|only `name = literal`"), ("token = 'a'", "looks like a credential")])
def test_notebooks_with_bad_parameter_cells_are_refused(refused, tmp_path, cell, says):
    said = refused(source=notebook(tmp_path / "bad.ipynb", cell))
    assert any(s in said for s in says.split("|"))


@pytest.mark.parametrize(
    "text, says", [("not json", "is not a notebook"), ("[]", "format 4"), ('{"nbformat": 3, "cells": []}', "format 4")]
)
def test_files_that_are_no_notebooks_are_refused(refused, tmp_path, text, says):
    (tmp_path / "x.ipynb").write_text(text)
    assert says in refused(source=tmp_path / "x.ipynb")


def test_unknown_names_list_the_known_ones(refused, tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("lib_name = drivekd\n")
    notebook(tmp_path / "nbs" / "runs" / "distill.ipynb", "x = 1")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert "known: distill" in refused(source="destill") and "there is no notebook a/b.ipynb" in refused(source="a/b.ipynb")
    assert runner.find_notebook("distill") == tmp_path / "nbs" / "runs" / "distill.ipynb"


def test_two_parameter_cells_are_refused():
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["x = 1"]}
    with pytest.raises(RunError, match="found 2"):
        declared({"cells": [cell, cell]})


# --- parameters


@pytest.mark.parametrize(
    "line, text, value",
    [
        ("x: float = 1.0", "5e-5", 5e-5),
        ("x: float = 1.0", "2", 2.0),
        ("x = 1", "-3", -3),
        ("x = False", "true", True),
        ("x: str = ''", "no", "no"),
        ("x: str = ''", "007", "007"),
        ("x = ''", "a=b", "a=b"),
        ("x: str | None = None", "null", None),
        ("x: str | None = None", "nul", "nul"),
        ("x: int | None = None", "4", 4),
        ("x: Optional[int] = None", "null", None),
        ("x = None", "[1]", [1]),
        ("x = {}", "{a: 1}", {"a": 1}),
        ("x: list[str] = []", "[a, b]", ["a", "b"]),
        ("x = (1, 2)", "[3]", [3]),
        ("x: Literal['a', 'b'] = 'a'", "b", "b"),
        ("x = ''", "", ""),
    ],
)
def test_text_is_typed_by_the_default(line, text, value):
    found = resolve(read_cell(line), {}, {"x": text})["x"]
    assert found == value and type(found) is type(value)


def test_help_comes_from_the_comment_even_with_a_hash_in_the_default():
    p = read_cell("colour: str = '#fff'  # of the bars")["colour"]
    assert (p.default, p.help) == ("#fff", "of the bars")


def test_command_line_wins_over_the_file():
    assert resolve(read_cell("x = 1\ny = 2"), {"x": 5, "y": 6}, split_pairs(["x=7"])) == {"x": 7, "y": 6}


@pytest.mark.parametrize(
    "name, credential",
    [
        ("token", True),
        ("hf_token", True),
        ("HF_TOKEN", True),
        ("apikey", True),
        ("api_key", True),
        ("accessKey", True),
        ("password", True),
        ("secret_name", True),
        ("max_new_tokens", False),
        ("tokenizer", False),
        ("keyframes", False),
        ("key_layer", False),
        ("author", False),
        ("seed", False),
        ("monkey", False),
    ],
)
def test_credential_names_are_whole_words(name, credential):
    assert is_credential_name(name) is credential


# --- privacy


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-proj-" + "a1" * 15,
        "sk-ant-api03-" + "x_9-" * 8,
        "ghp_" + "a" * 36,
        "AKIA" + "A1" * 8,
        "AIza" + "b" * 35,
        "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_known_key_forms_are_found_inside_text(secret):
    text, count = redact(f'{{"text": "before {secret} after"}}')
    assert count == 1 and secret not in text and text.startswith('{"text": "before [redacted]')


@pytest.mark.parametrize(
    "harmless",
    [
        "hf_hub_download",
        "sk-toggleable__content-arrow",
        "max_tokens=512",
        "a" * 64,
        "risk-" + "a" * 40,
        "https://host/a@b",
        "e3b0c44298fc1c149afbf4c8",
    ],
)
def test_harmless_text_is_left_alone(harmless):
    assert redact(harmless) == (harmless, 0)


def test_values_of_short_or_path_variables_are_not_searched():
    assert secret_values({"A_TOKEN": "true", "SSH_KEY": "/home/x/.ssh/id", "PATH": "x" * 20, "B_SECRET": 'say "hello" now'}) == (
        'say \\"hello\\" now',
        'say "hello" now',
    )


def test_paths_are_replaced_at_folder_boundaries_and_longest_first():
    folders = {"/home/ann": "~", "/home/ann/proj": ".", "/": "ROOT"}
    assert short_paths("/home/ann/proj/x /home/annabel /home/ann/y /home/ann/proj2", folders) == "./x /home/annabel ~/y ~/proj2"


def test_checkpoints_keep_their_paths_but_not_keys(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for p in (tmp_path / "checkpoints" / "config.json", tmp_path / "log.txt"):
        p.write_text(f"{tmp_path}/x {KEY}")
    assert clean_folder(tmp_path, {str(tmp_path): "."}) == {"checkpoints/config.json": 1, "log.txt": 1}
    assert (tmp_path / "log.txt").read_text() == "./x [redacted]" and str(tmp_path) in (
        tmp_path / "checkpoints" / "config.json"
    ).read_text()


@pytest.mark.parametrize("suffix", [".ipynb", ".json", ".jsonl", ".yaml", ".yml", ".html", ".txt", ".md", ".csv", ".tex", ".log", ".py", ".jinja", ".svg", ".bib", ""])
def test_a_text_file_is_cleaned_whatever_its_suffix(tmp_path, suffix):
    (tmp_path / f"kept{suffix}").write_text(f"{tmp_path}/x {KEY}")
    assert clean_folder(tmp_path, {str(tmp_path): "."}) == {f"kept{suffix}": 1}
    assert (tmp_path / f"kept{suffix}").read_text() == "./x [redacted]"


def test_weights_and_pictures_are_left_as_they_are_and_a_log_with_a_zero_byte_is_not(tmp_path):
    for name in ("model.safetensors", "front.png", "run.log"):
        (tmp_path / name).write_bytes(b"\x00" + KEY.encode())
    assert clean_folder(tmp_path, {}) == {"run.log": 1}
    assert (tmp_path / "front.png").read_bytes() == (tmp_path / "model.safetensors").read_bytes() == b"\x00" + KEY.encode()


def test_bytes_that_are_no_text_survive_cleaning(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"\xff\xfe " + KEY.encode())
    clean_folder(tmp_path, {})
    assert (tmp_path / "log.txt").read_bytes() == b"\xff\xfe [redacted]"


# --- folders


def done(folder, status="ok", pid=1):
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": status, "pid": pid, "error": None}))
    return folder


def test_repeating_a_run_takes_the_next_number_and_loses_nothing(tmp_path):
    names = [runner.next_folder(tmp_path / "distill").name for _ in range(3)]
    assert names == ["distill", "distill-2", "distill-3"]


def test_an_earlier_run_is_replaced_only_with_force(tmp_path):
    old = done(tmp_path / "r")
    (old / "report.html").write_text("x")
    with pytest.raises(RunError, match="--force"):
        runner.exact_folder(old, force=False)
    assert (runner.exact_folder(old, force=True) / "report.html").exists() is False


def test_force_never_removes_what_is_not_a_run_or_still_runs(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.txt").write_text("x")
    for foreign in (None, "{}", "[1]", ""):
        if foreign is not None:
            (tmp_path / "thesis" / "status.json").write_text(foreign)
        with pytest.raises(RunError, match="not a run"):
            runner.exact_folder(tmp_path / "thesis", force=True)
    with pytest.raises(RunError, match="still running"):
        runner.exact_folder(done(tmp_path / "busy", "running", os.getpid()), force=True)
    with pytest.raises(RunError, match="is a file"):
        runner.exact_folder(tmp_path / "thesis" / "a.txt", force=True)
    assert (tmp_path / "thesis" / "a.txt").read_text() == "x"


def test_show_lists_parameters_with_help(tmp_path, capsys):
    assert main([str(notebook(tmp_path / "n.ipynb", PARAMETERS)), "--show"]) == 0
    assert "x = 1" in capsys.readouterr().out
    assert load_notebook(tmp_path / "n.ipynb")["nbformat"] == 4


def test_importing_the_runner_is_light():
    heavy = ("torch", "papermill", "plotly", "IPython", "transformers")
    code = f"import sys, drivekd.runs.runner; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_running_run_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PULSE", 0.1)
    path, seen = notebook(tmp_path / "t.ipynb", PARAMETERS, "import time; time.sleep(4)", WRITE), []
    monkeypatch.setattr(runner, "write_status", lambda result: seen.append((result.status, result.cell, result.cells, result.seconds)))
    assert run(path, out=tmp_path / "run").ok
    assert {(2, 3)} <= {s[1:3] for s in seen if s[0] == "running"} <= {(None, 0), (1, 3), (2, 3), (3, 3)} and seen[-1][0] == "ok" and seen[-1][1] is None
    times = [s[3] for s in seen]
    assert times == sorted(times) and times[-2] > 2


def test_a_running_run_counts_the_cell_that_its_parameters_add(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runner, "PULSE", 0.1)
    path, seen = notebook(tmp_path / "t.ipynb", PARAMETERS, "import time; time.sleep(2)", WRITE), set()
    monkeypatch.setattr(runner, "write_status", lambda result: seen.add((result.cell, result.cells)))
    assert run(path, {"x": 3}, out=tmp_path / "run").ok
    assert (3, 4) in seen and "[3/4]" in capfd.readouterr().err


def test_a_notebook_that_refuses_after_it_wrote_something_loses_nothing(tmp_path):
    refuse = "from drivekd.runs.parameters import RunError; raise RunError('no such recipe')"
    path = notebook(tmp_path / "t.ipynb", PARAMETERS, "from drivekd.runs.runner import run_folder; (run_folder('t') / 'made.txt').write_text('x')", refuse)
    result = run(path, out=tmp_path / "run")
    assert result.status == "failed" and result.error == "no such recipe" and (tmp_path / "run" / "made.txt").exists()
    with pytest.raises(RunError, match="no such recipe"): run(notebook(tmp_path / "u.ipynb", PARAMETERS, refuse), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_refused_run_leaves_the_one_that_it_was_to_replace(tmp_path):
    fine = notebook(tmp_path / "t.ipynb", PARAMETERS, WRITE)
    assert run(fine, out=tmp_path / "run").ok
    refusing = notebook(tmp_path / "u.ipynb", PARAMETERS, "from drivekd.runs.parameters import RunError; raise RunError('no such recipe')")
    with pytest.raises(RunError, match="no such recipe"): run(refusing, out=tmp_path / "run", force=True)
    assert read_status(tmp_path / "run")["status"] == "ok" and (tmp_path / "run" / "result.json").exists()
    assert run(fine, {"x": 2}, out=tmp_path / "run", force=True).ok and {p.name for p in tmp_path.iterdir()} == {"t.ipynb", "u.ipynb", "run"}
