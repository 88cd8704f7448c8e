"""drivekd check-data: exit codes and the JSON object are a contract; the text for people fits on a screen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from record_specimens import SPECIMENS, drivekd, drivelm, paths, write

from drivekd import cli

REPO = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    for path in paths().values():
        (tmp_path / path).parent.mkdir(parents=True)
        Image.new("RGB", (32, 18), "grey").save(tmp_path / path)
    return tmp_path


def check(capsys, *argv):
    "Exit code, JSON object."
    code = cli.main(["check-data", *map(str, argv), "--json"])
    out = capsys.readouterr()
    assert out.err == "" and out.out.count("\n") == 1
    return code, json.loads(out.out)


def program(*argv, **env):
    "The program as a user starts it, from a folder that is not the repository."
    return subprocess.run(
        [sys.executable, "-m", "drivekd.cli", *map(str, argv)],
        capture_output=True,
        cwd="/",
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPO)} | env,
    )


def test_all_accepted_is_zero(folder, capsys):
    code, answer = check(capsys, write(folder, "a.json", [drivekd(), drivekd()]))
    assert (code, answer) == (0, {"format": "drivekd", "accepted": 2, "skipped": [], "error": None})


def test_some_skipped_is_one_and_indices_count_in_file_order(folder, capsys):
    code, answer = check(
        capsys, write(folder, "a.json", [None, drivekd(), drivekd(question_type="explanation"), drivekd(images=["samples/none.jpg"])])
    )
    assert code == 1 and answer["accepted"] == 1 and answer["error"] is None
    assert [(s["index"], s["code"]) for s in answer["skipped"]] == [(0, "not-an-object"), (2, "type-unknown"), (3, "image-missing")]
    assert all(set(s) == {"index", "code", "message"} for s in answer["skipped"])


@pytest.mark.parametrize(
    "content,code,format",
    [
        (b"", "file-empty", None),
        (b"[{", "json-syntax", None),
        (b"[]", "no-records", None),
        (b"3", "wrong-root", None),
        ("[]".encode("utf-16"), "utf16", None),
        (b'[{"0": 0, "no": 1}, {"0": "0", "1": "no"}]', "no-questions", "nuscenes-qa"),
    ],
)
def test_an_unusable_file_is_two(content, code, format, folder, capsys):
    status, answer = check(capsys, write(folder, "odd.json", content))
    assert status == 2 and answer["error"]["code"] == code and "odd.json" in answer["error"]["message"]
    assert (answer["accepted"], answer["skipped"], answer["format"]) == (0, [], format)


def test_nothing_accepted_but_recognised_is_one(folder, capsys):
    assert check(capsys, write(folder, "a.json", [drivekd("?")]))[0] == 1


def test_capabilities_of_another_domain_are_question_types(capsys):
    shapes = REPO / "data/examples/shapes/questions.json"
    code, answer = check(capsys, shapes)
    assert code == 1 and answer["accepted"] == 0 and "`drivekd check-data --capabilities …`" in answer["skipped"][0]["message"]
    code, answer = check(capsys, shapes, "--capabilities", "find, count")
    assert (code, answer["accepted"], answer["skipped"]) == (0, 96, [])


def test_a_capability_that_the_table_reads_as_another_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped: cli.main(["check-data", "questions.json", "--capabilities", "find,behavior"])
    assert stopped.value.code == 2 and "'behavior'" in capsys.readouterr().err


def test_the_image_root_defaults_to_the_files_folder(folder, capsys):
    (folder / "lists").mkdir()
    path = write(folder / "lists", "a.json", [drivekd()])
    assert check(capsys, path)[1]["skipped"][0]["code"] == "image-missing"
    assert check(capsys, path, "--image-root", folder)[0] == 0
    assert check(capsys, path, "--image-root", folder / "none")[1]["error"]["code"] == "image-root-missing"


def test_drivelm_works_by_default_and_other_prefixes_by_option(folder, capsys):
    (folder / "nuscenes").symlink_to(".")
    assert check(capsys, write(folder, "a.json", drivelm()))[0] == 0
    demo = write(folder, "b.json", [drivekd(images=[".../nuscenes/" + paths()["CAM_BACK"]])])
    assert check(capsys, demo)[0] == 1
    assert check(capsys, demo, "--prefix-map", ".../=")[0] == 0
    assert check(capsys, demo, "--prefix-map", ".../nuscenes/=", "--prefix-map", "a=b=c")[0] == 0


@pytest.mark.parametrize("name", [n for n, (*_, pictures) in SPECIMENS.items() if not pictures])
def test_files_without_pictures_need_none(name, folder, capsys):
    file, content, format, capabilities, _ = SPECIMENS[name]
    code, answer = check(capsys, write(folder, file, content))
    assert (code, answer["format"], answer["accepted"]) == (0, format, len(capabilities))


def test_the_format_can_be_named(folder, capsys):
    path = write(folder, "a.json", [drivekd(question_type="mine")])
    assert check(capsys, path)[0] == 1
    row = {k: v for k, v in drivekd().items() if k != "question_type"} | {"type": "mine"}
    assert check(capsys, write(folder, "a.json", [row]), "--format", "llamafactory")[0] == 0


def test_people_read_one_line_per_code(folder, capsys):
    rows = (
        [drivekd()]
        + [drivekd(images=[f"{i}.jpg"]) for i in range(50)]
        + [drivekd(question_type="x" * 200_000), drivekd("<image>\x1b[2J" * 2)]
    )
    assert cli.main(["check-data", str(write(folder, "a.json", rows))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "drivekd: 1 accepted (1 perception), 52 skipped" and len(lines) == 4
    assert "50 × image-missing, first at record 1" in lines[1] and all(len(line) < 400 and line.isprintable() for line in lines)


def test_people_read_an_error_on_stderr(folder, capsys):
    assert cli.main(["check-data", str(folder / "none.json")]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err == f"{folder}/none.json: there is no such file; check the path [file-missing]\n"


@pytest.mark.parametrize(
    "argv", [[], ["check-data"], ["bake"], ["check-data", "a.json", "--prefix-map", "ab"], ["check-data", "a.json", "--format", "coco"]]
)
def test_wrong_use_is_two_and_says_how(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2 and "usage: drivekd" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["check-data", "--help"]])
def test_help_is_zero(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 0 and "check-data" in capsys.readouterr().out


def test_the_other_commands_get_their_arguments_untouched(monkeypatch):
    import types

    seen = []
    for module in ("drivekd.runs.runner", "drivekd.data.world"):
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(main=lambda argv: seen.append(argv) or 3))
    assert cli.main(["run", "distill", "-p", "a=1", "--out", "x"]) == cli.main(["world", "--help"]) == 3
    assert seen == [["distill", "-p", "a=1", "--out", "x"], ["--help"]]


def test_the_program_answers_as_the_function_does(folder):
    path = write(folder, "a.json", [drivekd(), None])
    done = program("check-data", path, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["accepted"] == 1 and done.stderr == b""
    assert program("check-data", folder / "none.json").returncode == 2


def test_no_traceback_whatever_the_terminal_speaks(folder):
    path = write(folder, "ü.json", [drivekd(), drivekd(id=["图"], question_type="图\u202e"), drivekd(images=["图.jpg"])])
    done = program("check-data", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and done.stderr == b"" and done.stdout.isascii()
    odd = program("check-data", os.fsdecode(os.fsencode(folder) + b"/\xff\x1b[2J.json"), PYTHONIOENCODING="ascii")
    assert odd.returncode == 2 and b"Traceback" not in odd.stderr and b"\x1b" not in odd.stderr


def test_a_pipe_as_a_file_does_not_hang(folder):
    os.mkfifo(folder / "pipe.json")
    done = program("check-data", folder / "pipe.json", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == "file-unreadable"


def test_checking_data_needs_no_torch(folder):
    path = write(folder, "a.json", [drivekd()])
    code = (
        f"import sys; from drivekd.cli import main; code = main(['check-data', {str(path)!r}]); sys.exit(code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True).returncode == 0


REAL = os.environ.get("DRIVEKD_REALDATA")


@pytest.mark.skipif(not REAL, reason="DRIVEKD_REALDATA does not name a folder with real files (their licences forbid shipping them)")
@pytest.mark.parametrize(
    "name,argv,expected",
    [
        ("drivekd_style_boston.json", [], 31),
        ("drivebench_style_boston.json", [], 31),
        ("formats/drivelm_test_eval.json", [], 31),
        ("formats/drivelm_llava_conversations.json", ["--prefix-map", "data/="], 31),
    ],
)
def test_real_questions_with_their_real_frames(name, argv, expected, capsys):
    code, answer = check(capsys, Path(REAL) / name, "--image-root", Path(REAL) / "frames", *argv)
    assert (
        answer["accepted"] == expected
        and {s["code"] for s in answer["skipped"]} <= {"image-missing"}
        and code == (1 if answer["skipped"] else 0)
    )
