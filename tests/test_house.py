"The house: rooms in one direction, imports without side effects, short functions, one set of versions."
import ast
import re
import statistics
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from readme import ROOT

import drivekd

ROOMS = ("data", "models", "distill", "study", "workbench", "runs", "cli")  # each may import from itself and those before it
TORCH_FREE = ("data", "workbench", "runs", "cli")
MODULES = sorted(p for p in (ROOT / "drivekd").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: dotted(p))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room(name: str) -> str | None:
    "Room of a dotted module name; None for the package itself."
    return name.split(".")[1] if "." in name else None


def imported(path: Path) -> set[str]:
    "Modules of drivekd that a module imports, at the top or inside functions, by full name."
    found, package = set(), dotted(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) + 1 - node.level] if node.level else []
            whole = ".".join([*base, *filter(None, [node.module])])
            found |= {whole} if node.module else {f"{whole}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "drivekd"}


@each_module
def test_data_flows_down_and_nothing_imports_upward(path):
    mine = ROOMS.index(room(dotted(path)))
    upward = [name for name in imported(path) if room(name) and ROOMS.index(room(name)) > mine]
    assert not upward


def test_imports_between_modules_form_no_circle():
    graph = {dotted(p): imported(p) & {dotted(m) for m in MODULES} for p in MODULES}
    while leaves := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in leaves: del graph[name]
    assert not graph


@each_module
def test_imports_are_explicit(path):
    stars = [node.module for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    assert not stars


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_drivekd_imports_no_library():
    assert run_python("import sys, drivekd; print([m for m in sys.modules if m in ('torch', 'numpy', 'plotly', 'transformers')])") == "[]"


# arrange and show trainings: only the process that executes a run imports them
NEED_TORCH = {"drivekd.runs.answersheet", "drivekd.runs.comparison", "drivekd.runs.distill_report", "drivekd.runs.drives", "drivekd.runs.evaluation", "drivekd.runs.evaluation_report", "drivekd.runs.teaching"}


def test_rooms_without_models_import_without_torch():
    names = [dotted(p) for p in MODULES if room(dotted(p)) in TORCH_FREE and dotted(p) not in NEED_TORCH]
    assert run_python(f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nprint('torch' in sys.modules)") == "False"


def test_importing_everything_configures_nothing():
    code = f"""
import importlib, logging, os, random, socket, sys
def no_network(*a, **k): raise AssertionError("a module opened a connection while it was imported")
socket.socket.connect = no_network
import torch, transformers, plotly, gymnasium, torchjd  # what these do is theirs
state = lambda: (logging.getLogger().handlers, logging.getLogger().level, torch.get_default_dtype(), torch.get_default_device(),
                 torch.get_num_threads(), torch.initial_seed(), random.getstate(), os.getcwd(), sorted(os.listdir()))
before = state()
for name in {[dotted(p) for p in MODULES]}: importlib.import_module(name)
print(state() == before)
"""
    assert run_python(code) == "True"


def family_words(path: Path) -> list[str]:
    "Names of model families that code could ask about: whole strings and attributes, not prose."
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    words = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and " " not in n.value]
    words += [n.attr for n in nodes if isinstance(n, ast.Attribute)] + [n.id for n in nodes if isinstance(n, ast.Name)]
    words += [alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names]
    return [word for word in words if re.search(r"internvl|qwen|mllama|llava|^(model_type|vision_tower|multi_modal_projector|get_image_features|mm_encoder_outputs|image_token_id)$", word, re.I)]


# these build miniatures from configs of their families, so they name them; nothing else may
BUILDS_A_FAMILY = {"drivekd.models.miniature", "drivekd.models.family_miniatures"}


@each_module
def test_only_families_asks_which_family_a_model_is(path):
    if dotted(path) in BUILDS_A_FAMILY | {"drivekd.models.families"} or room(dotted(path)) == "data": return  # file formats have names too
    assert family_words(path) == []


def defined(body: list[ast.stmt]) -> list[str]:
    "Names that a module or a class gives to functions and classes; the setter of a property and its like are no second definition."
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not any(isinstance(d, ast.Attribute) for d in n.decorator_list)]


@each_module
def test_nothing_is_defined_twice(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]
    assert [name for body in bodies for name in set(defined(body)) if defined(body).count(name) > 1] == []


def functions() -> dict[str, int]:
    "Lines of each function."
    return {f"{dotted(p)}.{node.name}": node.end_lineno - node.lineno + 1 for p in MODULES
            for node in ast.walk(ast.parse(p.read_text(encoding="utf-8"))) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_functions_fit_on_a_screen():
    lines = functions()
    assert {name: n for name, n in lines.items() if n > 60} == {}
    assert statistics.quantiles(lines.values(), n=10)[-1] <= 25
    assert statistics.median(lines.values()) <= 10


def public_functions() -> list[tuple[Path, ast.FunctionDef]]:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    return [(path, n) for path, tree in trees.items() for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]


def test_public_functions_say_what_they_do():
    assert [f"{dotted(path)}.{n.name}" for path, n in public_functions() if not ast.get_docstring(n)] == []


def is_explained(argument: ast.arg, lines: list[str]) -> bool:
    return argument.annotation is not None or "#" in lines[argument.lineno - 1]


def test_nearly_all_arguments_have_a_type_or_a_comment_that_says_what_is_meant():
    explained = {f"{dotted(path)}.{f.name}({a.arg})": is_explained(a, path.read_text(encoding="utf-8").splitlines())
                 for path, f in public_functions() for a in f.args.args + f.args.kwonlyargs}
    bare = [name for name, good in explained.items() if not good]
    assert len(bare) <= len(explained) / 100, bare


def requirements(*names: str) -> list[Requirement]:
    return [Requirement(word) for name in names for word in SETTINGS[name].split()]


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("need", requirements("requirements", "dev_requirements", "moo_requirements"), ids=str)
def test_the_tested_set_satisfies_every_requirement(need):
    tested = constraints()[need.name.lower().replace("_", "-")]
    assert need.specifier.contains(tested), f"settings.ini asks for {need}, constraints.txt has {tested}"


def test_this_suite_runs_on_the_tested_set():
    from importlib.metadata import distributions
    here = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0] for d in distributions()}
    tested = constraints()
    assert {name: (here[name], tested[name]) for name in here.keys() & tested.keys() if here[name] != tested[name]} == {}


def test_version_is_said_once():
    assert drivekd.__version__ == SETTINGS["version"]
    assert not re.search(r"^(version|dependencies)\s*=", (ROOT / "pyproject.toml").read_text(), re.M)
    assert (ROOT / "CHANGELOG.md").read_text().count("## [Unreleased]") == 1


def test_contributing_fits_on_two_screens_and_maps_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert text.count("\n") <= 80
    assert not [name for name in ROOMS if f"| `{name}` |" not in text]


def test_nothing_in_the_house_names_a_machine():
    own = {ROOT / "tests/test_house.py", ROOT / "tests/test_notebooks.py"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    words = re.compile(r"/work/|\.\./shared|/opt/wheels")
    found = {}
    for path in sorted({ROOT / name for name in tracked} - own):
        if not path.exists() or path.suffix in (".png", ".jpg", ".safetensors"): continue
        if hits := words.findall(path.read_text(encoding="utf-8", errors="replace")): found[str(path.relative_to(ROOT))] = hits
    assert not found
