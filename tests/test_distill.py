"Distilling a real (miniature) vision-language model on the miniature world."
import json
import math

import pytest
import torch

from drivekd.data.jsonfiles import read_log
from drivekd.data.records import read_records
from drivekd.data.world import write_world
from drivekd.distill.capabilities import PRESETS
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import static_weights
from drivekd.distill.step import Window
from drivekd.distill.teachers import Teachers
from drivekd.distill.trainer import DistillationConfig, distill
from drivekd.models.batching import Batcher
from drivekd.models.families import InternVL
from drivekd.models.loading import VLM, load_vlm
from drivekd.models.miniature import build_miniature, build_processor, train_tokenizer

CAPABILITIES = ("perception", "reasoning", "planning")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about one or several cameras."
    path = write_world(tmp_path_factory.mktemp("data") / "world", frames=3, size=(160, 90), progress=False)
    return list(read_records(path))


@pytest.fixture(scope="module")
def processor(records): return build_processor(train_tokenizer([t.text for r in records for t in r.turns], vocab_size=800))


def vlm(processor, size, seed=0): return VLM(build_miniature(processor, size, seed), processor, InternVL())


def short(records, n=6):
    "One-camera questions, every capability in turn."
    piles = [[r for r in records if r.capability == c and len(r.images) == 1] for c in CAPABILITIES]
    return [r for group in zip(*piles, strict=False) for r in group][:n]


def config(folder, **options):
    defaults = dict(max_steps=2, per_device_train_batch_size=3, use_cpu=True, save_strategy="no", disable_tqdm=True, learning_rate=1e-3)
    return DistillationConfig(output_dir=str(folder), **defaults | options)


def test_a_student_learns_from_three_teachers_and_its_vision_tower_stays(tmp_path, records, processor):
    student, teachers = vlm(processor, "student"), {c: vlm(processor, "teacher", i) for i, c in enumerate(CAPABILITIES)}
    before = {n: p.clone() for n, p in student.model.named_parameters()}
    distill(student, teachers, short(records), config(tmp_path, max_steps=4), eval_records=short(records))
    moved = {n for n, p in student.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("language_model" in n for n in moved) and all(n in moved for n in before if "language_model" in n)
    record = read_log(tmp_path / "telemetry.jsonl")
    assert set(record[0]["losses"]) == {"ce", *CAPABILITIES} and record[-1]["losses"]["ce"] < record[0]["losses"]["ce"]


def losses(student, teacher, batch):
    "Unmixed losses per sample."
    recipe = PRESETS["agp"]
    lesson = Lesson(student, Teachers(dict.fromkeys(CAPABILITIES, teacher), recipe, len(student.llm_layers)), recipe)
    return lesson.study(batch, Window(student.model.parameters(), recipe), static_weights(recipe))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_change_no_sample(records, processor, side):
    student, teacher = vlm(processor, "student"), vlm(processor, "teacher")
    chosen = [next(r for r in records if len(r.images) > 1), *short(records, 2)]
    together = losses(student, teacher, Batcher(student, padding_side=side)(chosen))
    for i, record in enumerate(chosen):
        alone = losses(student, teacher, Batcher(student)([record]))
        for term in together: torch.testing.assert_close(together[term][i], alone[term][0], rtol=2e-3, atol=1e-9)


def test_a_run_resumes_bit_identically_and_its_checkpoint_is_an_ordinary_one(tmp_path, records, processor):
    teachers = dict.fromkeys(CAPABILITIES, vlm(processor, "teacher", 1))
    options = config(tmp_path, save_strategy="steps", save_steps=1, recipe={"preset": "agp", "reweight": "published"})
    whole, resumed = vlm(processor, "student"), vlm(processor, "student", seed=5)
    distill(whole, teachers, short(records), options)
    for path in (tmp_path / "checkpoint-2").glob(".drivekd_complete"): path.unlink()
    distill(resumed, teachers, short(records), options, resume=True)
    loaded = load_vlm(tmp_path / "checkpoint-2").model.state_dict()
    for name, p in whole.model.state_dict().items():
        assert torch.equal(p, resumed.model.state_dict()[name]) and torch.equal(p, loaded[name]), name


def test_the_best_model_comes_back_at_the_end(tmp_path, records, processor):
    student = vlm(processor, "student")
    options = config(tmp_path, recipe="ce", max_steps=3, learning_rate=0.5, save_strategy="steps", save_steps=1, eval_strategy="steps",
                     eval_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False)
    distill(student, None, short(records), options, eval_records=short(records, 3))
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 3  # such steps lead nowhere
    best = load_vlm(tmp_path / f"checkpoint-{state['best_global_step']}").model.state_dict()
    assert all(torch.equal(p, best[name]) for name, p in student.model.state_dict().items())


@pytest.fixture(scope="module")
def teacher(processor): return vlm(processor, "teacher", 1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_of_table_3_trains_the_miniature(tmp_path, records, processor, teacher, name):
    student = vlm(processor, "student")
    before = {n: p.clone() for n, p in student.model.named_parameters()}
    chosen = [r for r in short(records, 9) if r.capability in (PRESETS[name].train_on or CAPABILITIES)][:2]
    if len(PRESETS[name].capabilities) == 3: chosen = short(records, 3)
    distill(student, dict.fromkeys(CAPABILITIES, teacher), chosen, config(tmp_path, recipe=name, per_device_train_batch_size=len(chosen)))
    for record in read_log(tmp_path / "telemetry.jsonl"):
        assert set(record["losses"]) == set(record["norms_unweighted"]) == set(PRESETS[name].terms)
        assert all(math.isfinite(x) and x > 0 for x in (*record["losses"].values(), *record["norms_unweighted"].values()))
    assert record["step"] == 2 and record["losses"]["ce"] < read_log(tmp_path / "telemetry.jsonl")[0]["losses"]["ce"]
    assert all(torch.equal(p, before[n]) != ("language_model" in n) for n, p in student.model.named_parameters())


def test_mistakes_are_one_sentence(tmp_path, records, processor):
    student, teacher = vlm(processor, "student"), vlm(processor, "teacher")
    planning = [r for r in records if r.capability == "planning"]
    with pytest.raises(ValueError, match=r"no question for \['perception', 'reasoning'\]"):
        distill(student, dict.fromkeys(CAPABILITIES, teacher), planning, config(tmp_path))
    with pytest.raises(ValueError, match=r"none was given for \['reasoning'\]"):
        distill(student, {c: teacher for c in CAPABILITIES if c != "reasoning"}, short(records), config(tmp_path))
    with pytest.raises(ValueError, match="load it twice"):
        distill(student, dict.fromkeys(CAPABILITIES, student), short(records), config(tmp_path))
