"What the lessons ask: every check has a sentence for every answer and lets no wrong one pass; pictures are made for a projector."
import ast
import base64
import dis
import io
import re
from contextlib import contextmanager, nullcontext
from functools import partial
from types import CodeType

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from test_notebooks import LESSONS, cells, each, source

from drivekd.workbench.classroom import WIDTH

matplotlib.use("Agg")


# What takes a run or a training in the lesson: the checks only compare with it.
STAND_INS = {
    "02_hook": {"seen": [torch.eye(6), torch.eye(6)]},
    "03_one_layer": {"imitate": lambda scenes: (None, np.array([[0.2, 0.1]])), "errors": [6.0, 2.0], "before": {"learned from": np.array([0.4, 0.6])}, "after": {"learned from": np.array([0.1, 0.3])}},
    "06_evidence": {"on_picture": torch.arange(40.0).view(4, 10), "lost": {"most attended": np.array([0.1, 0.4, 0.2, 0.3])}, "COUNT": 2},
}
WRONG = ["1/2", "", b"2", [], {}, {"a": 1}, [None], [1, "2"], [[1, 2], [3, 4]], ["sky", 3], ("lorry", float("nan")), ("lorry", "5"), ("lorry", True), (np.zeros(2), 3), ([], 3), float("nan"), float("inf"), -float("inf"),
         1e300, 10**400, -1, 0, 999, 0.123, True, 1j, object(), len, nullcontext, np.array([0.3, 0.4]), np.zeros((0, 3)), np.array("c"), torch.tensor(float("nan")), torch.ones(2, 2), range(10**9), range(16), [float("nan")] * 6, [0.0, 1.0, 0, 0, 0, 0]]


def instructions(code: CodeType, *kinds: str) -> set[str]:
    "Names that code, also of the functions in it, loads or stores."
    inner = (instructions(c, *kinds) for c in code.co_consts if isinstance(c, CodeType))
    return {i.argval for i in dis.get_instructions(code) if i.opname in kinds}.union(*inner)


def slice_for(path, name: str, given: dict) -> dict:
    "What a lesson has defined when it defines a name, from the statements that this needs and no others."
    text = "\n".join(re.sub(r"^%.*", "", source(cell), flags=re.M) for cell in cells(path) if cell["cell_type"] == "code" and "solution" not in cell["metadata"].get("tags", []))
    parts = [compile(ast.Module([node], []), path.stem, "exec") for node in ast.parse(text).body]
    wanted, chosen = {name}, []
    for part in reversed(parts):
        if instructions(part, "STORE_NAME") & wanted - set(given): chosen, wanted = [part, *chosen], wanted | instructions(part, "LOAD_NAME", "LOAD_GLOBAL")
    space = dict(given)
    for part in chosen: exec(part, space)
    return space


@pytest.mark.parametrize("n", [1, 2, 3])
@each(LESSONS)
def test_every_check_has_a_sentence_for_every_answer_and_passes_no_wrong_one(path, n, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    check = slice_for(path, f"check_{n}", STAND_INS.get(path.stem, {}))[f"check_{n}"]
    capsys.readouterr()
    assert check(None) is None and len(capsys.readouterr().out.split()) > 2
    for answer in WRONG:
        assert check(answer) is False, answer
        said = capsys.readouterr().out
        assert said.startswith("not yet:") and 3 < len(said.split()) and len(said) < 400 and said.count("\n") == 1, (answer, said)


def test_hooks_that_stay_or_swallow_or_collect_something_else_do_not_pass(monkeypatch):
    [path] = [p for p in LESSONS if p.stem == "02_hook"]
    space = slice_for(path, "check_2", STAND_INS["02_hook"])
    tables = [torch.eye(6), torch.ones(6, 6)]
    space["seen"][:] = tables

    @contextmanager
    def hooks(model, seen, what=tables, stay=False, swallow=False):
        handles = [layer.register_forward_hook(lambda m, i, o, table=table: seen.append(table)) for layer, table in zip(model, what)]
        try: yield
        except MemoryError:
            if not swallow: raise
        finally:
            for handle in handles[stay:]: handle.remove()

    assert space["check_2"](hooks)
    for fault in ({"stay": True}, {"swallow": True}, {"what": (torch.eye(6), torch.eye(6))}, {"what": (torch.eye(6),)}, {"what": (1, 2)}):
        assert space["check_2"](partial(hooks, **fault)) is False
    assert space["check_2"](hooks)  # nobody's hooks are left for the next try


@each(LESSONS)
def test_pictures_of_a_lesson_are_wide_enough_for_a_projector(path):
    shown = [data for cell in cells(path) for output in cell.get("outputs", []) for kind, data in output.get("data", {}).items() if kind.startswith("image/")]
    widths = [Image.open(io.BytesIO(base64.b64decode("".join(data)))).width for data in shown]
    assert len(widths) >= 4 and min(widths) >= WIDTH
