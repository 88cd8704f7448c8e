"The run notebooks: one parameters cell each, a whole run on tiny models, and one sentence for every mistake."
import json
import math
import os
import shutil
from pathlib import Path

import nbformat
import pytest
import torch

from drivekd.data.records import read_records
from drivekd.data.world import write_world
from drivekd.models.families import InternVL
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import VLM, load_vlm, save_vlm
from drivekd.models.miniature import build_miniature, build_processor, train_tokenizer
from drivekd.runs.comparison import load_models, recipe_of
from drivekd.runs.parameters import RunError, declared, load_notebook
from drivekd.runs.runner import main, project_root, run
from drivekd.runs.teaching import processes_of, read_plan, taught, write_plan
from drivekd.study.heldout import lessons

RUNS = sorted((project_root() / "nbs" / "runs").glob("*.ipynb"))
CAPABILITIES = ("perception", "reasoning", "planning")


def checkpoint(folder, texts, size, seed, vocabulary=400):
    "A random miniature as an ordinary checkpoint."
    processor = build_processor(train_tokenizer(texts, vocabulary))
    return str(save_vlm(VLM(build_miniature(processor, size, seed), processor, InternVL()), folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A world of few scenes as a file, and random models; two of the teachers do not read as the student does."
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    path = write_world(folder / "world", 6, "train", size=(160, 90), per_frame=9, progress=False)  # enough that the held-out frames ask about an object for every teacher
    texts = [t.text for r in read_records(path) for t in r.turns]
    sizes = {"student": "student", "teacher_perception": "student"}  # teachers as small as students: this is about wiring
    made = {name: checkpoint(folder / name, texts, size, seed) for seed, (name, size) in enumerate(sizes.items())}
    made["teacher_reasoning"] = checkpoint(folder / "words", texts, "student", 8, vocabulary=380)  # cuts text otherwise
    made["teacher_planning"] = str(save_vlm(miniature_vlm("qwen2_5_vl", texts, vocab_size=400), folder / "pictures"))  # and this one pictures, too
    return made | {"data": str(path), "folder": folder, "texts": texts}


def settings(tiny, **changes):
    "Parameters of the smallest run."
    models = {name: tiny[name] for name in ("student", *(f"teacher_{c}" for c in CAPABILITIES))}
    return models | dict(data=tiny["data"], steps=3, batch_size=8, questions=2, eval_batch_size=4, max_new_tokens=3, device="cpu") | changes


def play(name, folder, monkeypatch, **parameters):
    "A run notebook's cells in this process: what a run does, without the price of starting one."
    monkeypatch.setenv("DRIVEKD_RUN_DIR", str(folder))
    space = {"__name__": "__main__"}
    for cell in load_notebook(project_root() / "nbs" / "runs" / f"{name}.ipynb")["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), space)
            if "parameters" in cell["metadata"].get("tags", []): space |= parameters
    return space


@pytest.mark.parametrize("path", RUNS, ids=[p.stem for p in RUNS])
def test_a_run_notebook_has_one_cell_of_commented_parameters_and_writes_its_result(path):
    nb = nbformat.read(path, 4)
    assert sum("parameters" in c.metadata.get("tags", []) for c in nb.cells) == 1
    assert all(p.help for p in declared(load_notebook(path)).values())
    assert any("write_result(" in c.source for c in nb.cells) and nb.cells[0].source.startswith("# ")
    assert not any(c.get("outputs") for c in nb.cells)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    "One whole run through papermill."
    out = tmp_path_factory.mktemp("runs") / "distill"
    return run("distill", settings(tiny, record_questions=1), out)


def test_the_main_job_finishes_and_leaves_everything(finished):
    assert finished.ok, finished.error
    assert {"notebook.ipynb", "report.html", "result.json", "status.json", "params.yaml", "checkpoints"} <= {p.name for p in finished.folder.iterdir()}


def test_its_result_holds_every_number(finished):
    result = json.loads((finished.folder / "result.json").read_text())
    metrics = result["metrics"]
    assert set(metrics["compared"]) == {"CE only", "CE + teachers, AGP"} <= set(metrics["accuracy"])
    assert set(metrics["answer_loss"]["CE only"]) == set(CAPABILITIES)
    assert set(metrics["gaze_distance"]) == {"perception", "planning"} and set(metrics["final_loss"]["CE + teachers, AGP"]) == {"ce", *CAPABILITIES}
    assert result["data"]["sha256"] and result["params"]["steps"] == 3 and result["seed"] == 0


def test_its_report_shows_what_was_asked_for(finished):
    page = (finished.folder / "report.html").read_text()
    for words in ("McNemar", "Answer loss", "Gradient conflict", "stage 1: ce", "stage 2: perception", "Where the last token", "Where the tokens of its object tags", "Answers side by side", "All parameters"):
        assert words in page, words
    assert page.count("<img ") == 4 + page.count("<iframe sandbox") and page.count('class="plotly-graph-div"') == 3


def test_a_distillation_leaves_recorded_attention_of_teachers_and_students(finished):
    from drivekd.workbench.bundle import read
    kept = json.loads((finished.folder / "result.json").read_text())["metrics"]["recordings"]
    assert sorted(k["capability"] for k in kept) == sorted(CAPABILITIES)
    bundle = read(finished.folder / kept[0]["file"])
    assert [m.name for m in bundle.models] == [*CAPABILITIES, "CE only", "CE + teachers, AGP"] and (finished.folder / kept[0]["page"]).exists()
    assert {m.name for m in bundle.models if m.carried} == {"reasoning"} and {p.capability for p in bundle.plans} == set(CAPABILITIES)


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    "Two questions of which attention was recorded."
    with pytest.MonkeyPatch.context() as patch:
        folder, ids = tmp_path_factory.mktemp("record"), [r.id for r in read_records(tiny["data"]) if r.images and r.capability][:2]
        models = {name: tiny[name] for name in ("student", *(f"teacher_{c}" for c in CAPABILITIES))}
        play("record", folder, patch, **models, data=tiny["data"], ids=",".join(ids), replies=False, device="cpu")
        return folder, ids


def test_a_recording_leaves_bundles_pages_and_a_report(recorded):
    from drivekd.workbench.bundle import read
    folder, ids = recorded
    metrics = json.loads((folder / "result.json").read_text())["metrics"]["recordings"]
    assert [(k["id"], k["file"], k["page"]) for k in metrics] == [(ids[0], "bundle.safetensors", "bundle.html"), (ids[1], "bundle-2.safetensors", "bundle-2.html")]
    bundle = read(folder / "bundle.safetensors")
    assert bundle.source["record"] == ids[0] and {m.method for m in bundle.maps} == {"attention", "rollout", "gradient"} and any(m.head is not None for m in bundle.maps)
    assert metrics[0]["bytes"] == (folder / "bundle.safetensors").stat().st_size and metrics[0]["carried"]["reasoning"] > 0 == metrics[0]["carried"]["perception"]
    page = (folder / "report.html").read_text()
    assert page.count("<iframe sandbox") == 2 and 'href="bundle.safetensors"' in page and "cuts" in page


def test_the_explorer_shows_a_recording(recorded, tmp_path, capsys):
    from drivekd.cli import main as drivekd
    assert drivekd(["explore", str(recorded[0] / "bundle.safetensors"), str(tmp_path / "seen.html")]) == 0
    assert "open it in a browser" in capsys.readouterr().out and (tmp_path / "seen.html").stat().st_size > 100_000


@pytest.mark.parametrize(("changes", "words"), [
    (dict(ids="no such id"), "found 'no such id'"), (dict(recipe="ce"), "recipe 'ce' compares none"), (dict(methods="atention"), "found 'atention'"), (dict(answer="right"), "found 'right'"),
    (dict(answer="right", data="none.json"), "found 'right'"), (dict(methods="atention", data="none.json"), "found 'atention'"), (dict(student="./none", data="none.json"), "no checkpoint at ./none"),
    (dict(max_size=0.001), "above the limit of 0.001 MB; record fewer methods, .* or raise parameter max_size$"), (dict(questions=0), "questions must be positive"), (dict(student="", teacher_perception="", teacher_reasoning="", teacher_planning=""), "at least one model")])
def test_a_recording_that_cannot_be_made_says_so_in_one_sentence(tiny, tmp_path, monkeypatch, changes, words):
    usual = dict(student=tiny["student"], teacher_perception="", teacher_reasoning="", teacher_planning="", data=tiny["data"], replies=False, device="cpu")
    with pytest.raises(RunError, match=words): play("record", tmp_path, monkeypatch, **(usual | changes))
    assert not list(tmp_path.glob("*.safetensors"))


def test_both_students_saw_the_same_samples_and_ended_elsewhere(finished, tiny):
    from safetensors.torch import load_file
    base, ce, agp = (load_file(Path(p) / "model.safetensors") for p in (tiny["student"], finished.folder / "checkpoints/ce", finished.folder / "checkpoints/agp"))
    moved = lambda a, b: [k for k in a if not torch.equal(a[k], b[k])]
    assert moved(base, ce) and moved(base, agp) and moved(ce, agp)
    assert not [k for k in moved(base, agp) if "vision_tower" in k or "projector" in k]
    rows = [json.loads(line) for name in ("ce", "agp") for line in (finished.folder / f"checkpoints/{name}/telemetry.jsonl").read_text().splitlines()[:1]]
    assert rows[0]["losses"]["ce"] == pytest.approx(rows[1]["losses"]["ce"], rel=1e-5)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(preset="agpp"), "preset must be one of"),
    (dict(steps=0), "steps must be positive"),
    (dict(student="nowhere/at/all"), "There is no checkpoint at nowhere/at/all"),
    (dict(teacher_planning="nowhere/at/all"), "There is no checkpoint at nowhere/at/all"),
    (dict(data="missing.json"), "there is no file of questions at missing.json"),
    (dict(image_root="no/such/folder"), "image root must be a folder"),
    (dict(held_out=1.5), "held_out must lie between 0 and 1"),
    (dict(freeze="everything"), "freeze must be one of"),
    (dict(precision="fp16"), "parameter precision must be 'float32' or 'bfloat16', found 'fp16'"),
    (dict(dtype="float16"), "parameter dtype must be 'float32' or 'bfloat16', found 'float16'"),
    (dict(device="gpu"), "parameter device must be 'auto', 'cpu' or 'cuda', found 'gpu'"),
    pytest.param(dict(device="cuda"), "PyTorch sees a GPU, found none", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
], ids=lambda x: next(iter(x)) if isinstance(x, dict) else "")
def test_a_mistake_is_one_clear_sentence(tiny, tmp_path, monkeypatch, changes, words):
    with pytest.raises(Exception) as error: play("distill", tmp_path, monkeypatch, **settings(tiny, **changes))
    assert words in str(error.value) and "\n" not in str(error.value).strip() and len(str(error.value)) < 500


def test_a_capability_without_questions_is_named(tiny, tmp_path, monkeypatch):
    records = [r for r in json.loads(Path(tiny["data"]).read_text()) if r["question_type"] != "planning"]
    data = tmp_path / "two.json"
    data.write_text(json.dumps(records))
    with pytest.raises(RunError, match=r"no question for \['planning'\]"):
        play("distill", tmp_path, monkeypatch, **settings(tiny, data=str(data), image_root=str(Path(tiny["data"]).parent)))


def test_a_teacher_with_another_tokenizer_is_refused_where_odds_of_words_are_taught(tiny, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="reasoning teacher must use the student's tokenizer to teach by logits"):
        play("distill", tmp_path, monkeypatch, **settings(tiny, preset="kl"))


def test_a_file_without_any_usable_question_says_why(tiny, tmp_path, monkeypatch):
    data = tmp_path / "no_pictures.json"
    shutil.copy(tiny["data"], data)
    with pytest.raises(Exception, match="gives no question about perception, reasoning or planning: 0 read") as error:
        play("distill", tmp_path, monkeypatch, **settings(tiny, data=str(data)))
    assert "\n" not in str(error.value)


def pairs(tiny, **changes):
    "Settings as a shell has them."
    return [x for name, value in settings(tiny, **changes).items() for x in ("-p", f"{name}={value}")]


def test_a_mistake_in_a_parameter_leaves_no_folder(tiny, tmp_path, capfd):
    assert main(["distill", *pairs(tiny, preset="apg"), "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'agp'?" in capfd.readouterr().err and not (tmp_path / "run").exists()


def test_a_failed_run_says_so_to_the_shell_and_in_its_folder(tiny, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["distill", *pairs(tiny, learning_rate=1e30), "--out", str(out)]) == 1
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "failed" and "finite" in status["error"] and "\n" not in status["error"]
    assert status["error"] in capfd.readouterr().err and not (out / "result.json").exists()


def test_an_unknown_parameter_does_not_start_a_run(tmp_path, capfd):
    assert main(["distill", "-p", "learning_speed=1", "--out", str(tmp_path / "run")]) == 2
    assert "learning_rate" in capfd.readouterr().err and not (tmp_path / "run").exists()


def test_a_world_is_made_by_its_notebook(tmp_path, monkeypatch):
    space = play("make_world", tmp_path, monkeypatch, train_frames=2, test_frames=4, width=160, height=90, per_frame=12)
    assert {p.name for p in space["files"].values()} == {"train.json", "test.json"} and (tmp_path / "report.html").exists() and (tmp_path / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", MINIATURES)
def test_students_of_every_family_are_distilled(tiny, tmp_path, monkeypatch, family):
    student, teacher = (str(save_vlm(miniature_vlm(family, tiny["texts"], vocab_size=400, seed=seed), tmp_path / name)) for seed, name in enumerate(("student", "teacher")))
    play("distill", tmp_path / "run", monkeypatch, **settings(tiny, student=student, **{f"teacher_{c}": teacher for c in CAPABILITIES}))
    result = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert set(result["final_loss"]["CE + teachers, AGP"]) == {"ce", *CAPABILITIES} and all(math.isfinite(x) for x in result["final_loss"]["CE + teachers, AGP"].values())
    before, after = (load_vlm(folder).model.state_dict() for folder in (student, tmp_path / "run" / "checkpoints" / "agp"))
    assert [k for k in before if not torch.equal(before[k], after[k])]


@pytest.mark.slow
def test_real_questions_about_real_frames_run_through(tiny, tmp_path):
    data, frames = os.environ.get("DRIVEKD_REAL_DATA"), os.environ.get("DRIVEKD_REAL_FRAMES")
    if not data or not frames: pytest.skip("DRIVEKD_REAL_DATA and DRIVEKD_REAL_FRAMES name a file of real questions and its pictures; they have licences of their own and are not shipped")
    result = run("distill", settings(tiny, data=data, image_root=frames), tmp_path / "real")
    assert result.ok, result.error
    assert "far too few" in (result.folder / "report.html").read_text()


def test_the_miniatures_are_taught_examined_and_shipped(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    out, ship = tmp_path / "run", tmp_path / "ship"
    steps = dict(student_steps="1 1", teacher_steps="1 1 1", perception_steps="1 1", reasoning_steps="1", planning_steps="1")
    small = dict(work=str(tmp_path / "work"), ship=str(ship), worlds=2, scenes=3, validation=3, exam_frames=3, exam_questions=2) | steps
    play("teach", out, monkeypatch, **small)
    names = ["student", *(f"teacher_{c}" for c in CAPABILITIES)]
    assert {p.name for p in ship.iterdir()} == {"README.md", *names} == {p.name for p in (out / "checkpoints").iterdir()}
    models = {name: load_vlm(ship / name).model for name in names}
    assert models["student"].num_parameters() * 8 <= models["teacher_planning"].num_parameters()
    card, result = (ship / "README.md").read_text(), json.loads((out / "result.json").read_text())
    for name in names: assert f"| {name} | {models[name].num_parameters():,} |" in card and set(result["metrics"][name]) == set(CAPABILITIES)
    before = {name: (ship / name / "model.safetensors").read_bytes() for name in names}
    play("teach", tmp_path / "again", monkeypatch, **small)  # finished stages are read back
    assert before == {name: (ship / name / "model.safetensors").read_bytes() for name in names}


def test_teaching_in_wrong_steps_ends_at_once_and_leaves_nothing(tmp_path, capsys):
    from drivekd.cli import main as drivekd
    quick = dict(work=tmp_path / "work", student_steps="1 1", teacher_steps="1 1 1", worlds=1, scenes=3, validation=3, planning_steps="1 2 3")
    assert drivekd(["run", "teach", "--out", str(tmp_path / "run"), *(word for name, value in quick.items() for word in ("-p", f"{name}={value}"))]) == 2
    assert "parameter planning_steps takes 1 or 2 positive whole numbers, a stage each, found '1 2 3'; write for example 1000 1000" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("changes", "words"), [
    (dict(planning_steps="x"), "planning_steps takes 1 or 2 .* found 'x'"), (dict(perception_steps=""), "perception_steps takes 1 or 2 .* found ''"), (dict(reasoning_steps="0"), "found '0'"), (dict(student_steps="8000"), "student_steps takes 2 positive"),
    (dict(teacher_steps="1 1 1 1"), "teacher_steps takes 3 positive .* write for example 1000 1000 1000$"), (dict(family="qwen"), "family must be empty or 'qwen2_5_vl', found 'qwen'"), (dict(exam_questions=0), "exam_questions must be positive")], ids=str)
def test_what_cannot_be_taught_is_refused_before_a_world_is_made(tmp_path, monkeypatch, changes, words):
    with pytest.raises(RunError, match=words): play("teach", tmp_path / "run", monkeypatch, work=str(tmp_path / "work"), **dict(worlds=1, scenes=3, validation=3, student_steps="1 1", teacher_steps="1 1 1") | changes)
    assert not (tmp_path / "work").exists()


def test_students_leave_answers_that_a_report_pairs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("drivekd.runs.answersheet.below_project", lambda path: tmp_path / Path(path).name)
    for name, changes in (("agp-s0", dict(recipe="agp", share_targets=True)), ("ce-s0", dict(recipe="ce", train_on="planning")), ("base-s0", dict(recipe="ce", steps=0))):
        play("student", tmp_path / name, monkeypatch, **settings(tiny, gaze_questions=1, **changes))
        (tmp_path / name / "status.json").write_text(json.dumps(dict(status="ok", pid=0, notebook="nbs/runs/student.ipynb")))
    lines = [json.loads(line) for line in (tmp_path / "agp-s0" / "answers.jsonl").read_text().splitlines()]
    assert {line["capability"] for line in lines} == set(CAPABILITIES) and any(line["right"] is None for line in lines) and all(line["loss"] > 0 for line in lines if line["loss"] is not None)
    assert len(list((tmp_path / "targets").glob("*/*/*.safetensors"))) > 2
    assert not (tmp_path / "base-s0" / "checkpoints").exists()
    play("report", tmp_path / "report", monkeypatch, folders=f"{tmp_path}/*-s0", baseline="ce", keep=str(tmp_path / "study.json"))
    found = json.loads((tmp_path / "report" / "result.json").read_text())["metrics"]
    assert len(json.loads((tmp_path / "study.json").read_text())["runs"]) == found["runs"] == 3 and {row["variant"] for row in found["tables"]["accuracy_against_ce"]} == {"agp", "base"}
    assert "one seed" in (tmp_path / "report" / "report.html").read_text() and (tmp_path / "report" / "accuracy.tex").exists()


def test_a_student_of_negative_steps_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="steps must be 0 or more, found -5"): play("student", tmp_path, monkeypatch, steps=-5, student="nowhere")


def test_a_report_without_runs_says_how_to_make_them(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no finished run .* make them with drivekd sweep"): play("report", tmp_path / "out", monkeypatch, folders=str(tmp_path / "empty"))


def test_processes_share_whole_micro_batches(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert processes_of(1, 1) == 1 and processes_of(2, 4) == 2 and processes_of(0, 8) == 4
    for processes, accumulation in ((2, 3), (0, 2), (-1, 2)):
        with pytest.raises(RunError, match="accumulation must be a multiple"): processes_of(processes, accumulation)


def test_a_plan_is_read_back_as_it_was_laid_out(tmp_path):
    world = write_world(tmp_path / "world", frames=2, progress=False)
    plan = [*read_records(world)]
    write_plan(tmp_path / "plan.jsonl", plan)
    assert read_plan(tmp_path / "plan.jsonl") == plan and [r.meta for r in read_plan(tmp_path / "plan.jsonl")] == [r.meta for r in plan]


@pytest.mark.slow  # two processes import everything
def test_two_processes_teach_the_student_of_one_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    world = write_world(tmp_path / "world", 6, "train", per_frame=9, progress=False)
    plan = lessons([r for r in read_records(world) if r.capability in CAPABILITIES], 2, 6, 0)
    _, teachers = load_models("data/miniature/student", {name: f"data/miniature/teacher_{name}" for name in CAPABILITIES})
    found = [taught("data/miniature/student", teachers, recipe_of("agp", reweight="norm_matched"), plan, tmp_path / str(n), processes=n, steps=3, batch_size=2, accumulation=2)[0] for n in (1, 2)]
    one, two = (torch.cat([p.flatten().double() for p in vlm.model.parameters()]) for vlm in found)
    before = torch.cat([p.flatten().double() for p in load_vlm("data/miniature/student").model.parameters()])
    assert (two - one).norm() < 1e-4 * (one - before).norm()
    assert {p.name for p in (tmp_path / "2").iterdir()} == {p.name for p in (tmp_path / "1").iterdir()}, "no job, no plan, no checkpoint"


def test_a_bundle_of_another_request_is_recorded_again(tiny, tmp_path):
    from drivekd.runs.recordings import record_questions
    student, other = load_vlm(tiny["student"]), load_vlm(tiny["teacher_perception"])
    first, second = [r for r in read_records(tiny["data"]) if r.images and r.capability][:2]
    how = {"methods": ("attention",), "heads": False, "replies": False}
    def recorded(vlm, question, **more):
        [found] = record_questions({}, {"student": vlm}, [question], tmp_path, **{**how, **more})
        return found.bundle
    before = recorded(student, first)
    written = (tmp_path / "bundle.safetensors").stat().st_mtime_ns
    assert recorded(student, first).to_bytes() == before.to_bytes() and (tmp_path / "bundle.safetensors").stat().st_mtime_ns == written
    assert recorded(student, second).source["record"] == second.id
    assert recorded(other, second).models[0].revision != before.models[0].revision
    assert {m.method for m in recorded(other, second, methods=("attention", "rollout")).maps} == {"attention", "rollout"}
    assert any(m.head is not None for m in recorded(other, second, heads=True).maps)
