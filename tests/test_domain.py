"Another domain by configuration: a recipe file, pairs of teachers and questions of its own types go through the run notebooks."
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, ImageChops
from test_runs import checkpoint, play

from drivekd.data.records import capability_of, read_records
from drivekd.distill.capabilities import usual_order
from drivekd.runs.comparison import Questions, from_file, recipe_of, single_layer, teachers_of
from drivekd.runs.identity import identity
from drivekd.runs.parameters import RunError, declared, load_notebook
from drivekd.runs.runner import project_root
from drivekd.study.benchmark import is_closed
from drivekd.workbench.bundle import read

SHAPES = project_root() / "data" / "examples" / "shapes"
NAMES = ("find", "count")
DRIVING = {c: f"teacher_{c}" for c in ("perception", "reasoning", "planning")}
DRIVING_WORDS = re.compile("perception|reasoning|planning", re.I)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "Two random teachers and a student whose folders have no name of driving, and a few of the example's questions."
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shapes")
    records = list(read_records(SHAPES / "questions.json", capabilities=NAMES))[:16]
    lines = json.loads((SHAPES / "questions.json").read_text())[:16]
    (folder / "few.json").write_text(json.dumps(lines))
    texts = [t.text for r in records for t in r.turns]
    models = {name: checkpoint(folder / name, texts, "student", seed, vocabulary=300) for seed, name in enumerate(("student", "a", "b"))}
    return dict(student=models["student"], teachers=f"find={models['a']} count={models['b']}", data=str(folder / "few.json"), image_root=str(SHAPES),
                steps=2, batch_size=6, questions=2, eval_batch_size=4, max_new_tokens=3, device="cpu")


def words_of(page: Path) -> list[str]:
    "Words of driving on a page, without the code of its figures' library."
    return DRIVING_WORDS.findall(re.sub(r"<script.*?</script>", lambda m: m[0] if len(m[0]) < 500_000 else "", page.read_text(), flags=re.S))


@pytest.mark.parametrize("name", ["distill", "student", "record"])
def test_a_run_asks_for_pairs_of_teachers_beside_the_recipe(name):
    notebook = load_notebook(project_root() / "nbs" / "runs" / f"{name}.ipynb")
    assert declared(notebook)["teachers"].default == "" and "run.teachers_of(" in "".join("".join(c["source"]) for c in notebook["cells"])


@pytest.mark.slow  # two students; what it shares with the next one is checked there each time
def test_two_skills_of_another_domain_are_distilled_and_the_page_speaks_of_nothing_else(tiny, tmp_path, monkeypatch):
    play("distill", tmp_path, monkeypatch, **tiny, preset=str(SHAPES / "recipe.yaml"))
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert metrics["compared"] == ["CE only", "shapes"] and set(metrics["answer_loss"]["shapes"]) == set(metrics["gaze_distance"]) == set(NAMES)
    assert set(metrics["final_loss"]["shapes"]) == {"ce", *NAMES} and (tmp_path / "checkpoints" / "shapes" / "model.safetensors").exists()
    page = (tmp_path / "report.html").read_text()
    assert words_of(tmp_path / "report.html") == [] and "find, first layer" in page and "count, penultimate layer" in page and "What colour is the circle?" in page


def test_students_of_another_domain_are_reported_beside_a_baseline_without_teachers(tiny, tmp_path, monkeypatch):
    for name, recipe in (("shapes-s0", str(SHAPES / "recipe.yaml")), ("ce-s0", "ce")):
        play("student", tmp_path / name, monkeypatch, **tiny, recipe=recipe, gaze_questions=1)
        (tmp_path / name / "status.json").write_text(json.dumps(dict(status="ok", pid=0, notebook="nbs/runs/student.ipynb")))
        assert {json.loads(line)["capability"] for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()} == set(NAMES)
    play("report", tmp_path / "report", monkeypatch, folders=f"{tmp_path}/*-s0", baseline="ce")
    tables = json.loads((tmp_path / "report" / "result.json").read_text())["metrics"]["tables"]
    assert set(tables["accuracy"][0]) == {"variant", "seeds", *NAMES, "average"}
    assert words_of(tmp_path / "report" / "report.html") == []


@pytest.fixture
def looked_at(tiny):
    "What a recording of the example is told."
    return {name: tiny[name] for name in ("student", "data", "image_root", "device")} | dict(recipe=str(SHAPES / "recipe.yaml"), methods="attention", replies=False)


def test_teachers_of_another_domain_are_recorded(tiny, looked_at, tmp_path, monkeypatch):
    play("record", tmp_path, monkeypatch, **looked_at, teachers=tiny["teachers"])
    result = json.loads((tmp_path / "result.json").read_text())
    bundle = read(tmp_path / "bundle.safetensors")
    assert {k["capability"] for k in result["metrics"]["recordings"]} == {*NAMES} and not {*DRIVING.values()} & {*result["params"]}
    assert [(m.name, m.role) for m in bundle.models] == [("find", "teacher"), ("count", "teacher"), ("student", "student")] and {p.capability for p in bundle.plans} == {*NAMES}


def test_students_of_another_domain_are_recorded_alone_or_with_whom_they_name(looked_at, tmp_path, monkeypatch):
    play("record", tmp_path / "alone", monkeypatch, **looked_at, **dict.fromkeys(DRIVING.values(), ""), questions=1)
    assert [m.name for m in read(tmp_path / "alone" / "bundle.safetensors").models] == ["student"]
    with pytest.raises(RunError, match="does not say who does; write find=FOLDER count=FOLDER"): play("record", tmp_path / "none", monkeypatch, **looked_at)


BAD_RECIPES = {
    "a wrong key": ({"name": "a", "teachers": []}, r"no fields \['teachers'\]"),
    "a wrong key of a signal": ({"name": "a", "capabilities": [{"name": "find", "signal": {"layer": "first"}}]}, r"Signal has no fields \['layer'\]"),
    "no name": ({"capabilities": []}, r"needs the fields \['name'\]"),
    "no signal": ({"name": "a", "capabilities": [{"name": "find"}]}, r"needs the fields \['signal'\]"),
    "names alone": ({"name": "a", "capabilities": ["find"]}, "needs its fields by name"),
    "a number for a list": ({"name": "a", "capabilities": 2}, "capabilities must be a list"),
    "a number for a word": ({"name": "a", "conflict": 2}, "does not hold a recipe"),
    "off, which YAML reads as false": ({"name": "a", "reweight": False}, "reweight must be one of 'off'"),
    "the name of a preset": ({"name": "ce"}, "is a preset"),
    "a preset under its own name": ({"preset": "agp"}, "is a preset"),
    "a folder elsewhere": ({"name": "../../a"}, "letters, digits"),
    "a capability that is a path": ({"name": "a", "capabilities": [{"name": "../b", "signal": {}}]}, "letters, digits"),
    "a capability read as another": ({"name": "a", "capabilities": [{"name": "behavior", "signal": {}}]}, "read as reasoning"),
    "a driving capability in capitals": ({"name": "a", "capabilities": [{"name": "Planning", "signal": {}}]}, "read as planning"),
    "a list": ([1, 2], "found a list"),
}


@pytest.mark.parametrize(("content", "words"), BAD_RECIPES.values(), ids=BAD_RECIPES)
def test_a_bad_recipe_is_refused_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RunError, match=words) as error: recipe_of(str(path), reweight="norm_matched" if "off" not in words else "")
    assert "bad.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["name: [", "\0", "name: a\nname: : b"])
def test_what_is_no_yaml_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RunError) as error: recipe_of(str(tmp_path / "bad.yaml"))
    assert "bad.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_is_not_there_is_no_preset(tmp_path):
    with pytest.raises(RunError, match="there is no recipe at .*nothing.yaml"): recipe_of(str(tmp_path / "nothing.yaml"))


def test_a_recipe_file_and_a_preset_take_the_same_options():
    shapes = recipe_of("data/examples/shapes/recipe.yaml", reweight="norm_matched", freeze="none")
    assert (shapes.name, shapes.terms, shapes.reweight, shapes.freeze) == ("shapes", ("ce", *NAMES), "norm_matched", "none")
    assert single_layer(shapes) | {"find": "first", "count": "penultimate"} == single_layer(shapes)


@pytest.mark.parametrize("name", ["agp", "ce", "single_reasoning", "tv_mid", "kl"])
def test_gaze_of_driving_is_measured_alike_for_every_recipe(name):
    assert single_layer(recipe_of(name)) == {"perception": "first", "planning": "penultimate"}


@pytest.mark.parametrize(("teachers", "one", "words"), [
    ("", "", "does not say who does; write find=FOLDER count=FOLDER"), ("find=a", "", "found find; write find=FOLDER count=FOLDER"),
    ("find=a count=b planning=c", "", "and for no other"), ("find=a find=b", "", "each name once"), ("find a", "", "NAME=FOLDER"), ("find=a count=", "", "NAME=FOLDER"),
    ("find=a count=b", "c", "leave one of them out"),
])
def test_teachers_that_do_not_fit_the_recipe_are_refused_in_one_sentence(teachers, one, words):
    with pytest.raises(RunError, match=re.escape(words)) as error: teachers_of(recipe_of("data/examples/shapes/recipe.yaml"), teachers, one, DRIVING)
    assert "\n" not in str(error.value)


def test_teachers_are_named_one_for_all_or_those_of_driving():
    shapes, agp, ce, planning = map(recipe_of, ("data/examples/shapes/recipe.yaml", "agp", "ce", "single_planning"))
    assert teachers_of(shapes, "count=b/c=d find=a", "", DRIVING) == {"find": "a", "count": "b/c=d"} and teachers_of(shapes, "", "a", DRIVING) == {"find": "a", "count": "a"}
    assert all(teachers_of(r, "", "", DRIVING) == DRIVING for r in (agp, ce, planning)) and set(teachers_of(agp, "", "a", DRIVING).values()) == {"a"}
    assert teachers_of(ce, "find=a count=b", "", DRIVING) == {"find": "a", "count": "b"}, "a baseline without teachers is told whom others ask"
    with pytest.raises(RunError, match="read as reasoning"): teachers_of(ce, "behavior=a", "", DRIVING)


def asked(capability: str, n: int) -> dict:
    return {"id": f"{capability}-{n}", "images": [f"{n:02}.png"], "question_type": capability, "question": "What? A. red B. blue", "answer": "red"}


def test_questions_of_other_types_are_counted_never_read_as_these(tmp_path):
    lines = [asked(kind, n) for n, kind in enumerate(["find", "count", " find ", "Find", "finding", "planning", "behavior", "find"])]
    (tmp_path / "mixed.json").write_text(json.dumps(lines))
    quiz: Questions = from_file(str(tmp_path / "mixed.json"), str(SHAPES), 0.5, 0, capabilities=NAMES)
    assert sorted(r.id for r in (*quiz.learn, *quiz.held_out)) == [" find -2", "count-1", "find-0", "find-7"]
    assert (quiz.skipped, quiz.untaught) == (2, 2)
    with pytest.raises(RunError, match="no question about perception, reasoning or planning: 0 read, 96 skipped"): from_file(str(SHAPES / "questions.json"), "", 0.5, 0)


@pytest.mark.parametrize("word", ["perception", "Prediction", "behavior", "planning", "robust_qas"])
def test_words_of_driving_keep_their_meaning_beside_other_names(word):
    assert capability_of(word, NAMES) == capability_of(word)


def test_capabilities_stand_in_one_order():
    assert usual_order(["count", "planning", "find", "perception", "count"]) == ["perception", "planning", "count", "find"]


def test_the_example_is_small_closed_and_drawn_again_alike(tmp_path):
    spec = importlib.util.spec_from_file_location("make_shapes", SHAPES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(tmp_path)
    files = sorted(p.name for p in SHAPES.iterdir() if p.suffix in (".png", ".json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == files and (tmp_path / "questions.json").read_text() == (SHAPES / "questions.json").read_text()
    for name in files:
        if name.endswith(".png"): assert not ImageChops.difference(*(Image.open(folder / name).convert("RGB") for folder in (tmp_path, SHAPES))).getbbox(), name
    assert sum(p.stat().st_size for p in SHAPES.iterdir() if p.is_file()) < 80_000
    records = read_records(SHAPES / "questions.json", capabilities=NAMES, verify_images=True)
    assert not records.skipped and records.capabilities == {name: 48 for name in NAMES} and all(map(is_closed, records))


def test_a_run_with_another_teacher_in_a_named_folder_is_another_run(tmp_path):
    (tmp_path / "a").mkdir()
    notebook, seen = load_notebook(project_root() / "nbs" / "runs" / "student.ipynb"), set()
    for weights in ("one", "two"):
        (tmp_path / "a" / "model.safetensors").write_text(weights)
        seen.add(identity(notebook, {"teachers": f"find={tmp_path / 'a'} count=hub/id"}, tmp_path))
    assert len(seen) == 2
