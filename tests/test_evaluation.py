"Asking and marking by DriveBench's rules; one test for each way in which published evaluations are known to go wrong while they run."
import json
import math
import multiprocessing
import operator
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fake_endpoint import FakeEndpoint, says, verdict
from PIL import Image
from test_runner import wait_for
from test_runs import play

from drivekd.data.corruptions import SETTINGS, setting_of, write_corrupted
from drivekd.data.drivebench import as_drivebench, question_type, write_drivebench
from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.records import VQARecord, read_records
from drivekd.models.families import InternVL
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import VLM, load_vlm, save_vlm
from drivekd.models.miniature import build_miniature, build_processor, train_tokenizer
from drivekd.runs.comparison import from_file
from drivekd.runs.evaluation import STUFFED, Quiz, evaluation_of, quiz_from_file, settings_of
from drivekd.runs.evaluation_report import lead, metrics, robustness_rows, robustness_table, scores_section
from drivekd.runs.parameters import RunError
from drivekd.runs.plans import main as sweep_main
from drivekd.runs.runner import read_status, run
from drivekd.study import endpoint
from drivekd.study.answerlog import AnswerLog
from drivekd.study.asking import Asking, Reply, ask, given_replies, model_digest, picture_opener, prepared
from drivekd.study.drivebench import BUCKETS, bucket_of, chosen, named_pictures, prompted, routed, triad, unseen_cameras
from drivekd.study.endpoint import EndpointError
from drivekd.study.judges import Judgement
from drivekd.study.marks import (
    Mark,
    description_of,
    drivelm_score,
    marked,
    mean_interval,
    pooled,
    read_descriptions,
    triad_differences,
    triad_intervals,
    triad_runs,
)
from drivekd.study.rule_judge import exact_judge, rule_judge

CLEAN, BLIND, RAIN = (setting_of(name) for name in ("clean", "NoImage", "Rain"))
CHOICE = "What is the moving status of object <c1,CAM_BACK,0.5,0.6>? Please select the correct answer from the following options: A. Stopped. B. Turn left."
BEHAVIOR = "Predict the behavior of the ego vehicle. Please select the correct answer from the following options: A. The ego vehicle is driving fast. B. The ego vehicle is not moving."
ASKED = [("perception", 0, CHOICE, "B"), ("perception", 2, "What are the important objects?", "A black car."), ("prediction", 3, "What should be noticed first?", "A black car in front."),
         ("prediction", 0, "Is <c1,CAM_BACK,0.5,0.6> a sign?", "No."), ("planning", 1, "What are safe actions?", "Slow down."), ("behavior", 0, BEHAVIOR, "A")]
CAMERAS = ("CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT")


def entry(frame, kind, tag, question, answer, **more):
    "A record of a DriveBench file."
    return {"scene_token": "s", "frame_token": frame, "question_type": kind, "tag": [tag], "question": question, "answer": answer, "image_path": {c: f"{c}/{frame}.png" for c in CAMERAS}} | more


def write(folder, rows, name="quiz.json"):
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "Two frames seen by three cameras."
    folder = tmp_path_factory.mktemp("place")
    for i, frame in enumerate(("f0", "f1")):
        for j, camera in enumerate(CAMERAS):
            (folder / camera).mkdir(exist_ok=True)
            Image.effect_noise((32, 18), 40 + 60 * i + 20 * j).convert("RGB").save(folder / camera / f"{frame}.png")
    return folder


@pytest.fixture(scope="module")
def quiz(place): return quiz_from_file(write(place, [entry(f, *rest) for f in ("f0", "f1") for rest in ASKED]), "", 0, 0)


@pytest.fixture(scope="module")
def novice():
    "A miniature that knows nothing, its digest, and a checkpoint of it."
    processor = build_processor(train_tokenizer([t for _, _, *both in ASKED for t in both], 400))
    return VLM(build_miniature(processor, "student", seed=1), processor, InternVL())


def toy(n, kind, tag, question, answer, **meta):
    return VQARecord(f"{kind} {n}", (), (Turn("user", question), Turn("assistant", answer)), None, (tag,), "drivebench", 0, {"question_type": kind, "frame_token": f"f{n}"} | meta)


def shortly(**options): return Asking(max_new_tokens=2, batch_size=4, **options)


# what is asked

def test_routing_is_drivebenchs_table():
    found = {(kind, tags): getattr(bucket_of(replace(toy(0, kind, 0, "?", "!"), tags=tags)), "name", None)
             for kind in ("perception", "prediction", "planning", "behavior", "robust_qas") for tags in ((0,), (1,), (2,), (3,), (0, 2), (4,), (5,), ())}
    scored = {key: name for key, name in found.items() if name}
    assert scored == {("perception", (0,)): "perception MCQ", ("perception", (2,)): "perception VQA", ("perception", (0, 2)): "perception VQA", ("prediction", (3,)): "prediction VQA",
                      ("planning", (1,)): "planning VQA", ("behavior", (0,)): "behavior MCQ", ("behavior", (0, 2)): "behavior MCQ"}
    assert {key: found[key] for key in (("robust_qas", (0,)), ("planning", (0,)), ("perception", ()), ("prediction", (0,)))} == {("robust_qas", (0,)): None, ("planning", (0,)): None, ("perception", ()): None, ("prediction", (0,)): None}
    assert bucket_of(replace(toy(0, "prediction", 0, "?", "!"), tags=(0,))).code == "yes-no"  # has a published rubric and no published score


def test_categories_map_to_the_three_capabilities():
    assert {b.name: b.capability for b in BUCKETS} == {"perception VQA": "perception", "perception MCQ": "perception", "prediction VQA": "reasoning", "behavior MCQ": "reasoning", "planning VQA": "planning"}
    assert all(b.rubric.name == b.name for b in BUCKETS)


def test_one_bad_row_stops_nothing_and_every_row_is_accounted_for(place):
    rows = [entry("f0", *ASKED[4]), entry("f0", "perception", 9, "?", "!"), entry("f0", "robust_qas", 4, "Describe.", "Rain."), entry("f0", "behavior", 0, "No options here.", "A"),
            entry("f0", "planning", 1, "?", "   "), entry("f0", "planning", 1, 7, "!"), "no record", entry("f0", "weather", 1, "?", "!"), entry("f0", *ASKED[3])]
    found = quiz_from_file(write(place, rows, "bad.json"), "", 0, 0)
    assert [i.record.index for i in found.items] == [0]
    assert [u.code for u in found.left_out] == ["tag", "type", "options", "reference", "yes-no"] and [s.code for s in found.skipped] == ["question-missing", "not-an-object", "type-unknown"]
    assert len(found.items) + len(found.left_out) + len(found.skipped) == len(rows)


def test_a_limit_takes_the_same_questions_for_everybody_whatever_their_order():
    items, _ = routed([toy(n, *ASKED[k]) for n in range(9) for k in range(6)])
    for seed in (0, 1): assert {i.id for i in chosen(items, 2, seed)} == {i.id for i in chosen(items[::-1], 2, seed)}
    assert {b.name: sum(i.bucket == b for i in chosen(items, 2)) for b in BUCKETS} == {b.name: 2 for b in BUCKETS}


def test_cameras_are_compared_whole_and_order_comes_from_the_file():
    pictures = tuple(ImageRef(c, Path(f"{c}.jpg")) for c in ("CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"))
    def shown(question): return [r.camera for r in named_pictures(replace(toy(0, "planning", 1, question, "!"), images=pictures))]
    assert shown("What about <c1,CAM_BACK,0.5,0.6>?") == ["CAM_BACK"] and shown("What about <c1,CAM_BACK_LEFT,0.5,0.6>?") == ["CAM_BACK_LEFT"]
    assert shown("Both <c1,CAM_BACK_LEFT,0.1,0.1> and <c2,CAM_FRONT,0.2,0.2>?") == ["CAM_FRONT", "CAM_BACK_LEFT"] and len(shown("Safe?")) == 4


def test_null_pictures_of_ray_files_are_no_pictures(place):
    nulls = entry("f0", *ASKED[0]) | {"image_path": {c: None for c in ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK_RIGHT")} | {"CAM_BACK": "CAM_BACK/f0.png"}}
    [item], _ = routed(read_records(write(place, [nulls], "nulls.json")))
    prompts, left = prepared([item], CLEAN, Asking())
    assert [r.camera for r in prompts[0].record.images] == ["CAM_BACK"] and not left


def test_a_question_about_a_camera_without_picture_is_left_out_but_asked_as_text(place):
    [item], _ = routed(read_records(write(place, [entry("f0", "planning", 1, "What about <c1,CAM_FRONT_LEFT,0.1,0.2>?", "!")], "unseen.json")))
    assert unseen_cameras(item.record) == ("CAM_FRONT_LEFT",)
    assert [u.code for u in prepared([item], CLEAN, Asking())[1]] == ["camera"] and len(prepared([item], BLIND, Asking())[0]) == 1


def test_text_only_means_no_pictures_or_the_published_black_ones(quiz):
    item = quiz.items[1]
    absent, black = (prepared([item], BLIND, Asking(text_only=how))[0][0] for how in ("absent", "black"))
    assert absent.record.images == () and "<image>" not in absent.record.turns[0].text and len(black.record.images) == 3
    picture = picture_opener(BLIND, Asking(text_only="black"))(black.record.images[0])
    assert picture.size == (224, 224) and picture.getextrema() == ((0, 0),) * 3 and absent.key != black.key


def test_the_system_prompt_stands_first_and_pictures_before_the_text(quiz):
    record = prompted(quiz.items[1], "Drive well.")
    assert [t.role for t in record.turns] == ["system", "user", "assistant"] and record.turns[1].text == "<image>" * 3 + record.question


def test_records_survive_the_way_through_a_drivebench_file(quiz, place):
    path = write_drivebench([i.record for i in quiz.items], place / "again.json")
    again = routed(read_records(path))[0]
    assert [(a.bucket, a.record.question, a.record.images, a.form.truth) for a in again] == [(a.bucket, a.record.question, a.record.images, a.form.truth) for a in quiz.items]
    assert question_type(quiz.items[0].record) == "perception"
    with pytest.raises(ValueError, match="leave this question out"): as_drivebench(toy(0, "robust_qas", 4, "?", "!"))


# replies are kept

def _append(path, who):
    log = AnswerLog(path)
    for i in range(30): log.append([{"key": str(i if i % 2 else f"{who} {i}"), "reply": str(who) * 3000}])


def test_processes_that_write_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, who)) for who in range(4)]
    for w in writers: w.start()
    for w in writers: w.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [w.exitcode for w in writers] == [0] * 4 and len(rows) == len({r["key"] for r in rows}) == 15 + 4 * 15
    assert all(len(set(r["reply"])) == 1 and len(r["reply"]) == 3000 for r in rows)


@pytest.mark.parametrize("torn", ["", '{"key"', '{"key": "b", "reply": "B"}', "\udcff\udcfe"], ids=["nothing", "half", "all but its end", "noise"])
def test_what_a_killed_writer_left_unfinished_is_dropped_and_the_rest_stays(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"key": "a", "reply": "A"}\n' + torn.encode("utf-8", "surrogateescape"))
    log = AnswerLog(path)
    log.append([{"key": "b", "reply": "again"}])
    assert {k: r["reply"] for k, r in AnswerLog(path).rows.items()} == {"a": "A", "b": "again"} and path.read_text().count("\n") == 2


def test_a_reply_is_never_overwritten_and_a_damaged_line_is_said(tmp_path):
    first, second = AnswerLog(tmp_path / "log.jsonl"), AnswerLog(tmp_path / "log.jsonl")
    first.append([{"key": "a", "reply": "A"}]); second.append([{"key": "a", "reply": "B"}])
    assert second.rows["a"]["reply"] == "A" and first.path.read_text().count("\n") == 1
    first.path.write_text('{"key": "a"}\n[1]\n')
    with pytest.raises(ValueError, match="line 2 of .* is not; delete this line"): AnswerLog(first.path)


def test_a_fresh_run_needs_no_log_and_a_second_one_asks_nothing(quiz, novice, tmp_path, monkeypatch):
    model, path = model_digest(novice), tmp_path / "new" / "folder" / "log.jsonl"
    replies, left, there = ask(novice, quiz.items, CLEAN, AnswerLog(path), shortly(), model, progress=False)
    assert len(replies) == 10 and not left and there == 0
    monkeypatch.setattr(novice.model, "generate", lambda **_: pytest.fail("asked again"))
    assert ask(novice, quiz.items, CLEAN, AnswerLog(path), shortly(), model, progress=False) == (replies, [], 10)


def test_a_killed_run_goes_on_and_gets_the_same_replies(quiz, novice, tmp_path):
    model = model_digest(novice)
    whole, _, _ = ask(novice, quiz.items, CLEAN, AnswerLog(tmp_path / "whole"), shortly(), model, progress=False)
    log, batches = AnswerLog(tmp_path / "log"), []
    def killed(rows): AnswerLog.append(log, rows); batches.append(rows); raise KeyboardInterrupt
    log.append = killed
    with pytest.raises(KeyboardInterrupt): ask(novice, quiz.items, CLEAN, log, shortly(), model, progress=False)
    resumed, _, there = ask(novice, quiz.items, CLEAN, AnswerLog(tmp_path / "log"), shortly(), model, progress=False)
    assert resumed == whole and there == len(batches[0]) == 4


def test_rows_without_an_id_are_not_taken_for_one_another(place, novice, tmp_path):
    rows = [entry("f0", *ASKED[4]), entry("f1", *ASKED[4]), entry("f0", *ASKED[1])]
    found = quiz_from_file(write(place, rows, "anonymous.json"), "", 0, 0).items
    log = AnswerLog(tmp_path / "log")
    ask(novice, found[:1], CLEAN, log, shortly(), "m", progress=False)
    replies, _, there = ask(novice, found, CLEAN, log, shortly(), "m", progress=False)
    assert len({i.id for i in found}) == len(replies) == len(log.rows) == 3 and there == 1


def test_a_reply_belongs_to_its_question_pictures_setting_prompt_and_model(quiz, place, tmp_path):
    item = quiz.items[1]
    def key(item=item, setting=CLEAN, model="m", **options): return prepared([item], setting, Asking(**options), model)[0][0].key
    others = [key(quiz.items[2]), key(setting=BLIND), key(setting=RAIN), key(setting=RAIN, seed=1), key(model="n"), key(system="Hm."), key(max_side=16), key(max_new_tokens=9)]
    assert len({key(), *others}) == 9 and key() == key(seed=5, batch_size=1)
    elsewhere = tmp_path / "root"
    for camera in CAMERAS: (elsewhere / camera).mkdir(parents=True); Image.new("RGB", (32, 18), "red").save(elsewhere / camera / "f0.png")
    moved = quiz_from_file(str(place / "quiz.json"), str(elsewhere), 0, 0).items[1]
    assert moved.record.question == item.record.question and key(moved) != key()  # the same names under another root are other pictures


def test_another_checkpoint_or_chat_template_is_another_model(novice):
    digest = model_digest(novice)
    other = VLM(build_miniature(novice.processor, "student", seed=2), novice.processor, InternVL())
    template = novice.processor.chat_template
    try:
        novice.processor.chat_template = template + " "
        assert len({digest, model_digest(other), model_digest(novice)}) == 3
    finally: novice.processor.chat_template = template
    assert model_digest(novice) == digest


def test_pictures_without_a_frame_are_known_by_the_name_their_noise_is_drawn_from(place, tmp_path):
    for name in "ab": (tmp_path / f"{name}.png").write_bytes((place / "CAM_BACK" / "f0.png").read_bytes())
    rows = [{k: v for k, v in entry("f0", *ASKED[4]).items() if k != "frame_token"} | {"image_path": {"CAM_FRONT": f"{name}.png"}} for name in "ab"]
    items = quiz_from_file(write(tmp_path, rows), "", 0, 0).items
    def shown(setting): return [picture_opener(setting, Asking())(i.record.images[0]).tobytes() for i in items]
    def keys(setting): return {p.key for p in prepared(items, setting, Asking())[0]}
    assert [i.record.frame for i in items] == [None, None] and len(set(shown(CLEAN))) == 1 and len(set(shown(RAIN))) == 2
    assert (len(keys(CLEAN)), len(keys(RAIN))) == (1, 2)
    asked, left = prepared(items, setting_of("WaterSplash"), Asking())
    assert not asked and [u.code for u in left] == ["frame", "frame"] and "needs its frame's name" in left[0].message


@pytest.mark.parametrize(("part", "setting", "value"), [("generation_config", "repetition_penalty", 1.3), ("config.text_config", "rms_norm_eps", 0.1), ("config.text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 77.0})])
def test_another_setting_of_the_same_weights_is_another_model(novice, tmp_path, part, setting, value):
    vlm = load_vlm(save_vlm(novice, tmp_path))
    assert (before := model_digest(vlm)) == model_digest(novice)  # wherever it lies
    setattr(operator.attrgetter(part)(vlm.model), setting, value)
    assert model_digest(vlm) != before


def test_what_a_processor_refuses_costs_one_question(quiz, place, novice, tmp_path):
    rows = [entry("f0", *ASKED[4]), entry("f0", "planning", 1, "So " * 5000, "!"), entry("f1", *ASKED[4])]
    found = quiz_from_file(write(place, rows, "long.json"), "", 0, 0).items
    replies, left, _ = ask(novice, found, CLEAN, AnswerLog(tmp_path / "log"), shortly(), "m", progress=False)
    assert len(replies) == 2 and [(u.id, u.code) for u in left] == [(found[1].id, "refused")]


def test_a_model_without_an_end_of_replies_is_refused_before_it_is_asked(quiz, novice, tmp_path, monkeypatch):
    monkeypatch.setattr(novice.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(novice.model, "generate", lambda **_: pytest.fail("asked"))
    with pytest.raises(ValueError, match="generation_config.json names as eos_token_id, found none; write"):
        ask(novice, quiz.items[:1], CLEAN, AnswerLog(tmp_path / "log"), shortly(), "m", progress=False)


def test_equal_questions_that_a_processor_refuses_are_all_accounted_for(place, novice, tmp_path):
    rows = [entry("f0", "planning", 1, "So " * 5000, "!")] * 3 + [entry("f0", *ASKED[4])] * 2
    found = quiz_from_file(write(place, rows, "longer.json"), "", 0, 0).items
    replies, left, _ = ask(novice, found, CLEAN, AnswerLog(tmp_path / "log"), shortly(), "m", progress=False)
    assert list(replies) == [i.id for i in found[3:]] and [(u.id, u.code) for u in left] == [(i.id, "refused") for i in found[:3]]


@pytest.mark.parametrize("family", MINIATURES)
def test_every_family_is_asked_with_pictures_black_ones_and_none(quiz, family, tmp_path, monkeypatch):
    vlm = miniature_vlm(family, [t for _, _, *both in ASKED for t in both], vocab_size=400)
    for how in ("absent", "black"):
        for setting in (CLEAN, BLIND):
            shown, log = [], AnswerLog(tmp_path / f"{how} {setting.name}")
            monkeypatch.setattr(vlm.family, "picture_inputs", lambda processor, picture, shown=shown: shown.append(picture) or type(vlm.family).picture_inputs(vlm.family, processor, picture))
            replies, left, _ = ask(vlm, quiz.items[:3], setting, log, shortly(text_only=how), "m", progress=False)
            blind, none = setting is BLIND, setting is BLIND and how == "absent"
            assert len(replies) == 3 and not left and sorted(len(row["cameras"]) for row in log.rows.values()) == ([0] * 3 if none else [1, 3, 3])
            assert len(shown) == (0 if none else 7) and all((picture.getextrema() == ((0, 0),) * 3) == blind for picture in shown)


def test_pictures_reach_the_model_in_their_own_shape(quiz):
    ref = quiz.items[0].record.images[0]
    assert [picture_opener(CLEAN, Asking(max_side=side))(ref).size for side in (0, 16, 999)] == [(32, 18), (16, 9), (32, 18)]  # not squashed to 224 × 224


def test_a_choice_of_unknown_status_is_left_out_with_a_reason(place):
    rows = [entry("f0", "perception", 0, CHOICE, "Levitating."), entry("f0", "perception", 0, CHOICE, "Stopped.")]
    found = quiz_from_file(write(place, rows, "status.json"), "", 0, 0)
    assert [(u.code, "'Levitating.'" in u.message) for u in found.left_out] == [("options", True)] and [i.form.truth for i in found.items] == ["A"]


def test_a_log_may_have_a_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AnswerLog("log.jsonl").append([{"key": "a", "reply": "A"}])
    assert AnswerLog(tmp_path / "log.jsonl").rows["a"]["reply"] == "A"


def test_a_damaged_picture_costs_the_questions_about_it(quiz, place, novice, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((place / "CAM_BACK" / "f0.png").read_bytes()[:300])
    bad = replace(quiz.items[0], record=replace(quiz.items[0].record, id="bad", images=tuple(replace(r, path=broken, root=None) if r.camera == "CAM_BACK" else r for r in quiz.items[0].record.images)))
    replies, left, _ = ask(novice, [bad, quiz.items[5]], CLEAN, AnswerLog(tmp_path / "log"), shortly(), "m", progress=False)
    assert list(replies) == [quiz.items[5].id] and [(u.id, u.code) for u in left] == [("bad", "image-corrupt")]


def test_a_folder_of_corrupted_pictures_is_used_and_never_replaced_by_clean_ones(quiz, place, tmp_path):
    folder = write_corrupted([i.record for i in quiz.items], RAIN, tmp_path, progress=False)
    asking = Asking(corrupted=str(tmp_path))
    [prompt, *_], left = prepared(quiz.items, RAIN, asking)
    assert not left and all(r.path.is_relative_to(folder) for r in prompt.record.images)
    assert picture_opener(RAIN, asking)(prompt.record.images[0]).tobytes() == Image.open(prompt.record.images[0].path).tobytes()  # not spoiled twice
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match="missing"): prepared(quiz.items, RAIN, asking)
    with pytest.raises(FileNotFoundError, match="Fog"): prepared(quiz.items, setting_of("Fog"), asking)


def test_given_replies_are_scored_without_a_model_and_missing_ones_are_counted(place):
    rows = [entry("f0", *ASKED[0], pred="B. Turn left."), entry("f1", *ASKED[0], pred=None), entry("f1", *ASKED[4])]
    found = quiz_from_file(write(place, rows, "pred.json"), "", 0, 0)
    replies, left = given_replies(found.items)
    assert [r.text for r in replies.values()] == ["B. Turn left."] and [u.code for u in left] == ["reply", "reply"]


# marks

def test_descriptions_are_found_by_number_and_whole_camera_or_not_at_all(tmp_path):
    objects = {"<c1,CAM_BACK_LEFT,9.0,9.0>": {"Visual_description": "Wrong."}, "<c1,CAM_BACK,800.0,540.0>": {"Visual_description": "Black sedan. <b>"}, "<c2,CAM_BACK,1.0,2.0>": {"Visual_description": None}}
    path = write(tmp_path, {"s": {"key_frames": {"f0": {"key_object_infos": objects}, "f1": {"key_object_infos": None}, "f2": []}}, "t": 3})
    known = read_descriptions(path)
    def told(n, question): return description_of(SimpleNamespace(record=toy(n, "perception", 0, question, "A")), known)
    assert told(0, CHOICE) == "c1: Black sedan. <b>" and told(0, "Is <c2,CAM_BACK,0.1,0.1> or <c9,CAM_FRONT,0.1,0.1> moving?") == ""
    assert told(0, "What are safe actions?") == told(1, CHOICE) == told(2, CHOICE) == told(77, CHOICE) == ""
    with pytest.raises(ValueError, match="visual_description.json"): read_descriptions(write(tmp_path, {"s": {}}, "empty.json"))


def test_a_judge_that_fails_is_not_asked_for_ever(quiz):
    calls = []
    def broken(cases, progress, run): calls.append(run); raise TypeError("unexpected keyword")
    with pytest.raises(TypeError): marked(quiz.items[:1], {quiz.items[0].id: SimpleNamespace(text="A", cut=False)}, broken)
    assert calls == [0]


def made_up(scores, name="planning VQA", frames=None):
    "Marks of one bucket with given totals, one tuple of runs each."
    kind = next(a for a in ASKED if a[0] == name.split()[0] and (name.endswith("MCQ") == ("A. " in a[2])) and a[3] != "No.")
    items, _ = routed([toy(n if frames is None else frames[n], *kind) for n in range(len(scores))])
    return [Mark(replace(i, record=replace(i.record, id=f"{name} {n}")), SimpleNamespace(text="x", cut=False), None, tuple(Judgement("", None, s) for s in (score if isinstance(score, tuple) else (score,))))
            for n, (i, score) in enumerate(zip(items, scores))]


def test_the_triad_is_the_plain_mean_of_three_and_both_weightings_are_what_they_say():
    scores = {"perception MCQ": (60.0, 30), "perception VQA": (20.0, 10), "prediction VQA": (30.0, 20), "behavior MCQ": (60.0, 10), "planning VQA": (40.0, 5)}
    by_bucket, by_question = triad(scores), triad(scores, "question")
    assert by_bucket == {"perception": 40, "reasoning": 45, "planning": 40, "Avg": 125 / 3} and by_question == {"perception": 50, "reasoning": 40, "planning": 40, "Avg": 130 / 3}
    assert math.isnan(triad({"planning VQA": (40.0, 5)})["Avg"]) and triad({"perception MCQ": (60.0, 30)})["perception"] == 60
    with pytest.raises(ValueError, match="bucket, question"): triad(scores, "frame")


def test_intervals_resample_whole_frames_and_few_frames_have_none():
    alike = mean_interval([0, 100] * 10, [str(n // 2) for n in range(20)])  # each frame holds one of each
    apart = mean_interval([0] * 10 + [100] * 10, [str(n // 2) for n in range(20)])
    assert alike.estimate == 50 and apart.low < 25 and apart.high > 75
    assert math.isnan(mean_interval([0, 100] * 5, [str(n // 2) for n in range(10)]).low)


def test_frames_that_all_agree_are_no_certainty():
    for scores in ([100] * 12, [0.1 + 0.2] * 12, [0, 100] * 12):  # each frame two questions
        found = mean_interval(scores, [str(n // 2) for n in range(len(scores))])
        assert found.estimate == pytest.approx(sum(scores) / len(scores)) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(triad_intervals(made_up([100.0] * 12))["planning"].low)
    found, _ = triad_differences(made_up([10.0] * 12), made_up([15.0] * 12))
    assert found["planning"].estimate == 5 and math.isnan(found["planning"].low)


def test_a_draw_that_misses_a_bucket_is_left_out_and_not_another_mean():
    marks = made_up([50.0 + n % 2 for n in range(12)], "perception VQA") + made_up([0.0], "perception MCQ")  # one choice in twelve frames: every third draw misses it
    for weighting in ("bucket", "question"):
        found, score = triad_intervals(marks, weighting)["perception"], 50.5
        assert found.estimate == pytest.approx(score / 2 if weighting == "bucket" else score * 12 / 13)
        assert found.high < (26 if weighting == "bucket" else 50)  # with the choice left out it would be above 50


def test_differences_are_paired_on_the_questions_that_both_settings_have():
    first, second = made_up([10.0 * n for n in range(8)]), made_up([10.0 * n + 5 + 0.5 * (n % 2) for n in range(8)])
    found, n = triad_differences(first, second[1:])
    assert n == 7 and found["planning"].estimate == pytest.approx(5 + 2 / 7) and 5 <= found["planning"].low < found["planning"].high <= 5.5 and math.isnan(found["perception"].estimate)
    assert triad_differences(first, []) == ({}, 0)


def test_a_reply_that_a_judge_could_not_judge_in_every_run_is_left_out_of_all():
    marks = made_up([(10.0, 20.0), (None, 90.0), (30.0, 40.0)])
    assert triad_intervals(marks)["planning"].estimate == 25 and [run["planning"] for run in triad_runs(marks)] == [20, 30]


def test_settings_of_a_family_are_pooled_question_by_question():
    both = pooled([made_up([10.0, 20.0]), made_up([30.0, 60.0])[:1]])
    assert [m.score for m in both] == [20.0]


def test_drivelms_score_is_there_only_with_all_four_parts(quiz):
    replies = {i.id: SimpleNamespace(text=i.record.answer, cut=False) for i in quiz.items}
    assert drivelm_score(marked(quiz.items, replies, exact_judge)) is None  # references name objects in words
    tagged = [replace(i, record=replace(i.record, turns=(i.record.turns[0], Turn("assistant", "First <c1,CAM_BACK,0.5,0.6>.")))) if i.bucket.name == "prediction VQA" else i for i in quiz.items]
    found = drivelm_score(marked(tagged, {i.id: SimpleNamespace(text=i.record.answer, cut=False) for i in tagged}, exact_judge))
    assert found.parts["accuracy"] == pytest.approx(.2) and found.parts["match"] == pytest.approx(.2) and found.parts["judge"] == pytest.approx(.4)


def test_a_familys_right_choices_are_counted_in_all_its_settings(quiz):
    settings = {name: setting_of(name) for name in ("clean", "NoImage", "Rain", "Fog")}
    right, wrong = ({i.id: Reply(said if i.bucket.way == "MCQ" else "?", False) for i in quiz.items for said in [i.form.truth if good else "none"]} for good in (True, False))
    found = evaluation_of(quiz, settings, {name: (wrong if name == "Fog" else right, [], 0, 0.0) for name in settings}, exact_judge, 1, {})
    rows = dict(robustness_rows(found))
    page = robustness_table(robustness_rows(found), found.marks["clean"], "")
    assert list(rows) == ["clean", "text only", "weather (2 settings)"] and [len(m) for m in rows["weather (2 settings)"]] == [10, 10]
    assert [cell in page for cell in ("<strong>100</strong>", "<strong>50</strong>")] == [True, True]


# floors

def judged(reply, frames=8, judge=rule_judge):
    "An evaluation in which every question gets the reply that a function of its item gives."
    kinds = [kind for kind in ASKED if kind[3] != "No."]
    asked = [replace(toy(n, *kind[:3], "AB"[n % 2] if "A. " in kind[2] else f"{kind[3]} Number {n}."), id=f"{n} {k}") for n in range(frames) for k, kind in enumerate(kinds)]
    items, _ = routed(asked)
    return evaluation_of(Quiz(Path("toy.json"), items, len(items), [], [], False), {"clean": CLEAN}, {"clean": ({i.id: Reply(reply(i), False) for i in items}, [], 0, 0.0)}, judge, 1, {})


def test_floors_are_the_same_questions_by_the_same_judge_and_the_references_of_others():
    found = judged(lambda i: "")
    assert list(found.floors) == ['"I do not know."', "one sentence for all", "references of other questions"]
    for marks in found.floors.values(): assert [m.item.id for m in marks] == [m.item.id for m in found.marks["clean"]]
    handed = found.floors["references of other questions"]
    assert sorted(m.reply.text for m in handed) == sorted(m.item.record.answer for m in handed) and not any(m.reply.text == m.item.record.answer for m in handed if m.item.bucket.way == "VQA")


def test_points_that_a_constant_sentence_earns_too_do_not_lead_the_page():
    bought = judged(lambda i: STUFFED)
    said, shown = lead(bought, "m"), "".join(scores_section(bought).pieces)
    assert "8 of 16 choices right; by the judge's points it is not above what no model said: Avg" in said
    assert "0.0 less than one sentence for all" in said
    assert "perception" not in said and shown.index("always A") < shown.index("inside a capability") and "not surely above" in shown
    assert set(metrics(bought)["floors"]) == set(bought.floors)


def test_a_model_above_every_floor_is_led_by_its_points():
    right = judged(lambda i: i.record.answer, judge=exact_judge)
    said, shown = lead(right, "m"), "".join(scores_section(right).pieces)
    assert "Avg 100.0 of 100 by this judge, above what no model said" in said and "not surely above" not in shown and shown.index("inside a capability") < shown.index("always A")


def test_without_intervals_nothing_is_above_a_floor():
    assert "not surely above what no model said" in lead(judged(lambda i: i.record.answer, frames=5, judge=exact_judge), "m")


# the run

def test_settings_have_any_spelling_and_corruptions_come_with_both_references():
    assert [s.name for s in settings_of("text_only, CLEAN,h.265 compression")] == ["clean", "NoImage", "H265"] and len(settings_of("all")) == len(SETTINGS) == 17
    for wrong in ("rain", "clean,rain", "text_only,rain", "", "clean,hail"):
        with pytest.raises(RunError): settings_of(wrong)


@pytest.fixture(scope="module")
def tiny(place, quiz, novice, tmp_path_factory):
    "Parameters of the smallest run."
    return dict(model=str(save_vlm(novice, tmp_path_factory.mktemp("novice"))), data=str(place / "quiz.json"), max_new_tokens=2, device="cpu", answers=str(place / "answers"), settings="clean,text_only,rain,fog")


def read(folder, name): return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_run_leaves_a_page_numbers_and_every_answer(tiny, tmp_path, monkeypatch, capsys):
    play("evaluate", tmp_path, monkeypatch, **tiny)
    said = capsys.readouterr().out
    assert "clean: 10 replies (0 known already, 10 asked now)," in said and "NoImage: 10 replies (0 known already, 5 asked now, 5 equal to another question and asked once)," in said
    result, rows, page = json.loads((tmp_path / "result.json").read_text())["metrics"], read(tmp_path, "answers.jsonl"), (tmp_path / "report.html").read_text()
    assert result["replies"] == {"clean": 10, "NoImage": 10, "Fog": 10, "Rain": 10} and len(rows) == 40 and {r["setting"] for r in rows} == set(result["replies"])
    assert result["questions"] == {"asked": 10, "scored": 10, "not_scored": {"yes-no": 2}, "not_read": {}}
    for words in ("Robustness", "text only (no pictures)", "weather (2 settings)", "every bucket counts the same (our choice)", "always A", "yes-no", "knows nothing of real streets", "2 frames only: fewer than 6 have no interval"): assert words in page
    assert page.count("no interval") == 1 and page.count("<small>[") == 0  # said once, the cells are bare
    assert set(result["triad"]["clean"]) == {"bucket", "question"} and set(result["against_clean"]) == {"NoImage", "Fog", "Rain"}
    again = tmp_path / "again"
    again.mkdir()
    play("evaluate", again, monkeypatch, **tiny)
    assert read(again, "answers.jsonl") == rows and json.loads((again / "result.json").read_text())["metrics"]["known_already"] == result["replies"]


def test_a_file_without_pictures_is_asked_as_text_and_says_so(tiny, tmp_path, monkeypatch):
    play("evaluate", tmp_path, monkeypatch, **tiny | dict(image_root=str(tmp_path), settings="clean,text_only"))
    result, page = json.loads((tmp_path / "result.json").read_text())["metrics"], (tmp_path / "report.html").read_text()
    assert result["replies"] == {"clean": 0, "NoImage": 10} and result["not_asked"]["clean"] == {"image-missing": 10} and "No question could be asked under the setting clean" in page


def test_a_beginning_of_image_paths_is_replaced_where_files_are_read(tiny, place, tmp_path, monkeypatch):
    rows = [e | {"image_path": {c: f"data/nuscenes/{p}" for c, p in e["image_path"].items()}} for e in (entry(f, *ASKED[4]) for f in ("f0", "f1"))]
    there = dict(data=write(tmp_path, rows, "official.json"), image_root=str(place))
    play("evaluate", tmp_path, monkeypatch, **tiny | there | dict(settings="clean", prefix_map="data/nuscenes/="))
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["replies"] == {"clean": 2}
    questions = from_file(there["data"], str(place), 0.5, 0, "data/nuscenes/=")
    assert questions.skipped == 0 and all(ref.path.exists() for r in questions.learn for ref in r.images)


def test_replies_of_a_file_are_scored_and_shown_as_text(place, tmp_path, monkeypatch):
    hostile = "B. <script>alert(1)</script> <img src=x>"
    data = write(place, [entry("f0", *ASKED[0], pred=hostile), entry("f1", *ASKED[4], pred="Slow down.")], "hostile.json")
    play("evaluate", tmp_path, monkeypatch, model="pred", data=data)
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x>" not in page and "&lt;script&gt;alert(1)" in page
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["buckets"]["given"]["perception MCQ"]["accuracy"]["right"] == 1


def test_a_language_model_judges_several_runs_and_their_spread_is_shown(place, tmp_path, monkeypatch):
    points = {"ego action": 30, "reasons": 12, "probability": 10, "context and safety": 10, "brevity": 8}
    data = write(place, [entry(f, *ASKED[4], pred="Slow down.") for f in ("f0", "f1")], "judged.json")
    with FakeEndpoint(lambda fields, number: says(verdict(points | {"brevity": 8 - number % 3}))) as server:
        play("evaluate", tmp_path, monkeypatch, model="pred", data=data, judge=server.url, judge_model="toy", judge_runs=3, answers=str(tmp_path / "kept"))
        asked = len(server.asked)
        play("evaluate", tmp_path, monkeypatch, model="pred", data=data, judge=server.url, judge_model="toy", judge_runs=3, answers=str(tmp_path / "kept"))
        assert asked == len(server.asked)  # judgements are kept
    score = json.loads((tmp_path / "result.json").read_text())["metrics"]["buckets"]["given"]["planning VQA"]
    assert len(score["runs"]) == 3 and 62 < score["judge"][0] <= 70 and "(3 runs)" in (tmp_path / "report.html").read_text()


def judge_by(answer, data, folder, monkeypatch, url="", **more):
    "An evaluation of a file's replies by an endpoint that answers so."
    monkeypatch.setattr(endpoint, "wait_before", lambda *_: 0.0)
    with FakeEndpoint(answer) as server: return play("evaluate", folder, monkeypatch, model="pred", data=data, judge=url or server.url, judge_model="toy", answers=str(folder / "kept"), **more)


@pytest.mark.parametrize(("answer", "url", "reason"), [
    (lambda fields, number: says('{"points": {}, "total": 100}'), "", "no usable verdict: .*replies are kept$"),
    (None, "http://127.0.0.1:9/v1", ".*ConnectionRefusedError.*replies are kept$"),
    (None, "http://nowhere.invalid:80/v1", "no whole response.*no key is set in DRIVEKD_JUDGE_KEY, should nowhere.invalid:80 want one$")], ids=["useless", "dead", "unknown, without a key"])
def test_a_judge_that_gives_nothing_usable_ends_the_run_in_a_sentence(place, tmp_path, monkeypatch, answer, url, reason):
    monkeypatch.delenv("DRIVEKD_JUDGE_KEY", raising=False)
    data = write(place, [entry("f0", *ASKED[4], pred="Slow down."), entry("f1", *ASKED[4], pred="")], "useless.json")  # an empty reply needs no judge
    with pytest.raises(EndpointError, match=f"a judge must give usable judgements, found none of 1, the first because {reason}"): judge_by(answer, data, tmp_path, monkeypatch, url)
    assert not (tmp_path / "result.json").exists()


def test_replies_that_a_judge_could_not_judge_are_said_on_top(place, tmp_path, monkeypatch):
    points = {"ego action": 30, "reasons": 12, "probability": 10, "context and safety": 10, "brevity": 8}
    data = write(place, [entry(f, *ASKED[4], pred=f"Slow down in {f}.") for f in ("f0", "f1")], "partly.json")
    judge_by(lambda fields, number: says(verdict(points)) if number else (400, {}, b"too <b>long"), data, tmp_path, monkeypatch)
    page = (tmp_path / "report.html").read_text()
    assert "1 of 2 replies have no usable judgement and are in no judge score, the first because" in page and "too &lt;b&gt;long" in page and "What a constant sentence would earn was not asked" in page


def test_what_is_not_scored_is_a_word_and_never_nan(quiz):
    planning = [i for i in quiz.items if i.bucket.name == "planning VQA"]
    said = {i.id: Reply("Slow down.", False) for i in planning}
    for blind in (said, {}):
        found = evaluation_of(replace(quiz, items=planning), {"clean": CLEAN, "NoImage": BLIND}, {"clean": (said, [], 0, 0.0), "NoImage": (blind, [], 0, 0.0)}, rule_judge, 1, {})
        told = [lead(found, "m"), robustness_table(robustness_rows(found), found.marks["clean"], ""), *scores_section(found).pieces]
        assert not any(re.search(r"\bnan\b", text) for text in told) and ("not known" in told[0]) == bool(blind) and "not scored" in told[1]


def test_judging_that_could_cost_too_much_is_refused_before_the_first_call(place, tmp_path, monkeypatch):
    data = write(place, [entry("f0", *ASKED[4], pred="Slow down.")], "dear.json")
    with FakeEndpoint(lambda fields, number: pytest.fail("asked")) as server:
        with pytest.raises(RunError, match="judging may cost"):
            play("evaluate", tmp_path, monkeypatch, model="pred", data=data, judge=server.url, judge_model="toy", judge_prices="1000 1000", judge_max_cost=0.01, answers=str(tmp_path / "kept"))
        assert server.asked == [] and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("changes", "words"), [
    (dict(settings="clean,rain"), "add them"), (dict(settings="clean,hail"), "found 'hail'"), (dict(judge="gpt-4"), "address of an endpoint"), (dict(judge="rules", judge_runs=5), "same every time"),
    (dict(judge="http://localhost:1/v1"), "judge_model"), (dict(judge="http://localhost:1/v1", judge_model="m", judge_max_cost=1.0), "prices"), (dict(system_prompt="nowhere.txt"), "found 'nowhere.txt'"),
    (dict(text_only="white"), "absent, black"), (dict(prefix_map="data/nuscenes/"), "OLD=NEW, found 'data/nuscenes/'"), (dict(limit=-1), "must not be negative"), (dict(batch_size=0), "must be positive"), (dict(dtype="int8"), "bfloat16"), (dict(data="nowhere.json"), "no file of questions"),
    (dict(model="no/such/folder"), "no checkpoint"), (dict(corrupted="no/such/folder"), "must exist"), (dict(descriptions="nowhere.json"), "nowhere.json: there is no such file"),
], ids=lambda value: str(value)[:40] if isinstance(value, dict) else "")
def test_a_mistake_is_one_clear_sentence_before_any_work(tiny, tmp_path, monkeypatch, changes, words):
    with pytest.raises(RunError, match=words): play("evaluate", tmp_path / "run", monkeypatch, **tiny | changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_default_run_finishes(tmp_path):
    result = run("evaluate", {"answers": str(tmp_path / "answers")}, tmp_path / "run")
    assert result.ok and result.seconds < 90
    assert json.loads((result.folder / "result.json").read_text())["metrics"]["buckets"]["clean"]["perception MCQ"]["accuracy"]["right"] > 0


@pytest.mark.slow
def test_an_evaluation_that_died_goes_on_with_its_replies_and_a_finished_one_is_kept(tiny, tmp_path):
    answers, plan = tmp_path / "answers", tmp_path / "plan.yaml"
    values = tiny | dict(answers=str(answers), batch_size=1)
    plan.write_text(yaml.safe_dump({"notebook": "evaluate", "parameters": values, "runs": {"only": {}}}))
    made = tmp_path / "made"
    command = [sys.executable, "-m", "drivekd.cli", "run", "evaluate", "-f", str(tmp_path / "values.yaml"), "--out", str(made / "only"), "--resume"]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(p.read_text().count("\n") > 2 for p in answers.glob("*.jsonl")), 200)
    process.kill()
    process.communicate(timeout=60)
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    first, metrics = read_status(made / "only"), json.loads((made / "only" / "result.json").read_text())["metrics"]
    assert metrics["replies"]["clean"] == 10 and metrics["known_already"]["clean"] > 2
    assert run("evaluate", values, made / "only", resume=True).started == first["started"]
    assert sweep_main([str(plan), "--out", str(made)]) == 0 and read_status(made / "only")["started"] == first["started"]  # a sweep keeps it, too


REAL = os.environ.get("DRIVEKD_REALDATA")
real = pytest.mark.skipif(not REAL, reason="DRIVEKD_REALDATA does not name a folder with real files (their licences forbid shipping them)")


@real
def test_replies_to_real_questions_are_scored(tmp_path, monkeypatch):
    play("evaluate", tmp_path, monkeypatch, model="pred", data=f"{REAL}/drivebench_style_boston.json", limit=0)
    result = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert result["replies"] == {"given": 27} and result["questions"]["not_scored"] == {"yes-no": 4}


@real
@pytest.mark.parametrize("name", ["final", "raw"])
def test_drivebenchs_own_rows_are_routed_completely(name):
    found = quiz_from_file(f"{REAL}/formats/drivebench_test_{name}_excerpt.json", "", 0, 0)
    assert {u.code for u in found.left_out} == {"yes-no"} and not found.skipped and {i.bucket.name for i in found.items} >= {b.name for b in BUCKETS} - {"prediction VQA"}
    assert all(len(named_pictures(i.record)) == 1 for i in found.items if i.bucket.name == "perception MCQ")  # raw rows hold six pictures, the published preprocessing keeps the tagged one


@real
@pytest.mark.slow
def test_a_miniature_is_asked_about_real_streets(tmp_path):
    result = run("evaluate", dict(data=f"{REAL}/drivebench_style_boston.json", image_root=f"{REAL}/frames", limit=2, answers=str(tmp_path / "answers")), tmp_path / "run")
    assert result.ok and "knows nothing of real streets" in (result.folder / "report.html").read_text()
