"Worlds on disk: written by command or taken from a cache, complete or not at all."
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from drivekd import cli
from drivekd.data import world
from drivekd.data.records import read_records
from drivekd.data.world import cached_world, main, world_key


def test_the_command_writes_a_world_that_can_be_read(tmp_path, capsys):
    assert cli.main(["world", str(tmp_path / "w"), "--frames", "2", "--split", "test", "--size", "160x90"]) == 0
    path = tmp_path / "w" / "test.json"
    records = read_records(path, verify_images=True)
    assert str(path) in capsys.readouterr().out and len(records) == len(json.loads(path.read_text())) and not records.skipped


def test_worlds_with_and_without_letters_differ_in_their_answers_only(tmp_path):
    shape = ["--frames", "2", "--size", "160x90"]
    for name, more in (("letters", []), ("words", ["--words"])): assert main([str(tmp_path / name), *shape, *more]) == 0
    published, spoken = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("letters", "words"))
    chosen = 0
    for a, b in zip(published, spoken, strict=True):
        letter, (said, meant) = a["letter"], (x["messages"].pop()["content"] for x in (a, b))
        assert a == b and meant == (said.replace(f"Final: {letter}. ", "Final: ", 1) if letter else said)
        chosen += letter is not None
    assert chosen


@pytest.mark.parametrize(("arguments", "words"), [
    (["--frames", "0"], "positive number of frames"), (["--frames", "many"], "positive number of frames"), (["--size", "160"], "WIDTHxHEIGHT"), (["--size", "8x8"], "at least 32 pixels"),
    (["--split", "val"], "invalid choice")])
def test_a_wrong_argument_is_explained_and_writes_nothing(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended: main([str(tmp_path / "w"), *arguments])
    assert ended.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "w").mkdir()
    assert main([str(tmp_path / "w"), "--frames", "1"]) == 2
    assert "exists" in capsys.readouterr().err and not list((tmp_path / "w").iterdir())


def test_a_negative_seed_is_refused_in_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "w"), "--frames", "1", "--seed", "-1"]) == 2
    assert "0 or more, found -1" in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_world_is_made_once_for_the_same_options(tmp_path, monkeypatch):
    first = cached_world(tmp_path, 1, "test", size=(160, 90), progress=False)
    monkeypatch.setattr(world, "write_world", lambda *a, **k: pytest.fail("made twice"))
    assert cached_world(tmp_path, 1, "test", size=(160, 90), progress=False) == first


def test_runs_that_start_together_write_the_world_they_share_once(tmp_path, monkeypatch):
    written, write = [], world.write_world
    monkeypatch.setattr(world, "write_world", lambda *a, **k: written.append(a) or write(*a, **k))
    with ThreadPoolExecutor(4) as pool: paths = list(pool.map(lambda _: cached_world(tmp_path, 2, "test", size=(160, 90), progress=False), range(4)))
    assert len(written) == 1 and len(set(paths)) == 1 and read_records(paths[0], verify_images=True)


def test_other_options_or_other_code_are_another_world(monkeypatch, tmp_path):
    keys = {world_key(frames=n, split=s, seed=k) for n in (1, 2) for s in ("train", "test") for k in (0, 1)}
    assert len(keys) == 8 and world_key(frames=1) == world_key(frames=1)
    before, (folder,) = world_key(frames=1), __import__("drivekd.data", fromlist=["data"]).__path__
    for path in world.Path(folder).glob("*.py"): (tmp_path / path.name).write_bytes(path.read_bytes() + b"# changed")
    monkeypatch.setattr("drivekd.data.__path__", [str(tmp_path)])
    assert world_key(frames=1) != before
