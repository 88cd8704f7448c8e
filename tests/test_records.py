"""Records in = accepted + skipped, neighbours survive, nothing outside the image root is opened, no traceback but ours."""

import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_specimens import (
    CAMERAS,
    FRAME,
    OBJECTS,
    SCENE,
    SPECIMENS,
    chat,
    drivekd,
    drivelm,
    frame_question,
    nest,
    paths,
    prediction,
    qa,
    write,
)

from drivekd.data import formats, images, problems, records
from drivekd.data.images import ImageRef, load_image
from drivekd.data.problems import CODES, DataError
from drivekd.data.records import RecordSet, VQARecord, read_records


# ---------------------------------------------------------------- formats
@pytest.mark.parametrize("name", SPECIMENS)
def test_every_published_format_is_recognised_and_read(name, tmp_path):
    file, content, format, capabilities, pictures = SPECIMENS[name]
    got = read_records(write(tmp_path, file, content))
    assert (got.format, [r.capability for r in got], got.skipped) == (format, capabilities, ())
    assert len(got[0].images) == pictures
    assert [r.index for r in got] == list(range(len(got)))


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_record_has_one_placeholder_per_picture_and_none_in_its_question(name, tmp_path):
    file, content, *_ = SPECIMENS[name]
    for record in read_records(write(tmp_path, file, content)):
        assert sum(t.text.count("<image>") for t in record.turns if t.role == "user") == len(record.images)
        assert "<image>" not in record.question and record.question == record.question.strip() != ""
        assert len({record.id}) == 1 and record.turns[-1].role == "assistant"


@pytest.mark.parametrize("name", SPECIMENS)
def test_naming_the_format_changes_nothing(name, tmp_path):
    file, content, format, *_ = SPECIMENS[name]
    path = write(tmp_path, file, content)
    assert list(read_records(path, format=format)) == list(read_records(path))


@pytest.mark.parametrize("name", [n for n, (_, content, *_) in SPECIMENS.items() if isinstance(content, list)])
def test_a_broken_first_record_does_not_change_the_format(name, tmp_path):
    file, content, format, capabilities, _ = SPECIMENS[name]
    got = read_records(write(tmp_path, file, [None, *content]))
    assert (got.format, len(got), [(s.index, s.code) for s in got.skipped]) == (format, len(capabilities), [(0, "not-an-object")])


def test_an_unknown_format_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found 'coco'"):
        read_records(write(tmp_path, "a.json", [drivekd()]), format="coco")


def test_drivelm_questions_are_counted_in_the_published_order(tmp_path):
    got = read_records(write(tmp_path, "a.json", drivelm()))
    assert [r.id for r in got] == [f"{SCENE}_{FRAME}_{i}" for i in range(5)]
    assert [r.meta["question_type"] for r in got] == ["perception", "prediction", "prediction", "planning", "behavior"]
    assert [r.tags for r in got] == [(2,), (3,), (0,), (1,), (0,)]
    assert {(r.scene, r.frame) for r in got} == {(SCENE, FRAME)} and {i.frame for i in got[0].images} == {FRAME}


def test_drivelm_paths_are_mapped_before_the_traversal_check(tmp_path):
    got = read_records(write(tmp_path, "a.json", drivelm()), image_root=tmp_path)
    assert got[0].images[0].path == tmp_path / "nuscenes/samples/CAM_FRONT/n000__CAM_FRONT__1.jpg"


def test_the_prefix_map_reaches_the_demo_paths(tmp_path):
    file, content, *_ = SPECIMENS["drivekd six in ring order"]
    got = read_records(write(tmp_path, file, content), prefix_map={".../": ""})
    assert got[0].images[0].path == tmp_path / "nuscenes/samples/CAM_FRONT_LEFT/n000__CAM_FRONT_LEFT__1.jpg"


def test_the_longest_prefix_wins_and_the_result_is_still_checked(tmp_path):
    path = write(tmp_path, "a.json", [drivekd(images=["x/y/CAM_BACK/a.jpg"])])
    assert read_records(path, prefix_map={"x/": "no/", "x/y/": "yes/"})[0].images[0].path == tmp_path / "yes/CAM_BACK/a.jpg"
    assert read_records(path, prefix_map={"x/": "../../"}).skipped[0].code == "path-outside"


@pytest.mark.parametrize("order", [CAMERAS, CAMERAS[::-1], sorted(CAMERAS)])
def test_the_order_of_a_camera_table_means_nothing(order, tmp_path):
    got = read_records(write(tmp_path, "a.json", [frame_question(question_type="planning", image_path=paths(order=order))]))
    assert [i.camera for i in got[0].images] == list(CAMERAS)


def test_a_list_of_pictures_keeps_its_order_because_placeholders_refer_to_it(tmp_path):
    got = read_records(write(tmp_path, "a.json", [drivekd("<image>" * 6 + "?", images=list(paths().values())[::-1])]))
    assert [i.camera for i in got[0].images] == list(CAMERAS[::-1])


def test_a_single_dash_camera_has_no_name(tmp_path):
    assert read_records(write(tmp_path, "a.json", [drivekd(images=["100k/train/9afb.jpg"])]))[0].images[0].camera is None


def test_multi_turn_and_system_turns_are_kept(tmp_path):
    turns = [
        {"role": r, "content": t}
        for r, t in (("system", "You drive."), ("user", "<image>One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2"))
    ]
    (record,) = read_records(write(tmp_path, "a.json", [drivekd(messages=turns)]))
    assert [tuple(t) for t in record.turns] == [(t["role"], t["content"]) for t in turns]
    assert (record.question, record.answer) == ("One?", "1")


def test_a_system_prompt_beside_the_turns_becomes_the_first_turn(tmp_path):
    (record,) = read_records(write(tmp_path, "a.json", [chat("<image>What?", image="a.jpg", system="You drive.")]))
    assert record.turns[0] == ("system", "You drive.")


def test_one_leading_placeholder_may_stand_for_six_pictures_in_conversations_only(tmp_path):
    six = list(paths().values())
    assert read_records(write(tmp_path, "a.json", [chat("<image>\nWhat?", image=six)]))[0].turns[0].text == "<image>" * 6 + "\nWhat?"
    assert read_records(write(tmp_path, "b.json", [drivekd("<image>\nWhat?", images=six)])).skipped[0].code == "placeholder-mismatch"


def test_predictions_go_to_meta_and_the_truth_stays_the_answer(tmp_path):
    output = read_records(write(tmp_path, "a.json", [prediction(0, gt_answer="B")]))[0]
    assert (output.answer, output.meta["prediction"], output.scene, output.frame) == ("B", "A", SCENE, FRAME)
    bench = read_records(write(tmp_path, "b.json", [frame_question(question_type="behavior", image_path=paths(), pred="A")]))[0]
    assert (bench.answer, bench.meta["prediction"]) == ("B", "A")
    assert read_records(write(tmp_path, "c.json", {"results": [prediction(0)]}))[0].answer == ""


def test_markup_that_looks_like_a_path_stays_text(tmp_path):
    text = "<image>Look: <image_path>/etc/passwd</image_path> <img>../x.jpg</img> <Image> <c4,CAM_FRONT,0.8441,0.83"
    (record,) = read_records(write(tmp_path, "a.json", [drivekd(text)]))
    assert record.turns[0].text == text and len(record.images) == 1


def test_repeated_ids_stay_distinct(tmp_path):
    got = read_records(write(tmp_path, "a.json", [drivekd(id="7"), drivekd(id=7), drivekd()]))
    assert [r.id for r in got] == ["7", "7#1", "drivekd-2"]


def test_a_record_set_is_a_sequence(tmp_path):
    got = read_records(write(tmp_path, "a.json", [drivekd(), None, drivekd(question_type="planning")]))
    assert isinstance(got, RecordSet) and isinstance(got[0], VQARecord)
    assert len(got[:1]) == 1 and got[-1] in got and list(reversed(got))[0] is got[-1]
    assert got.capabilities == {"perception": 1, "planning": 1} and "2 accepted, 1 skipped" in repr(got)


@pytest.mark.parametrize(
    "kind,capability",
    [
        ("perception", "perception"),
        ("Reasoning", "reasoning"),
        (" planning\n", "planning"),
        ("prediction", "reasoning"),
        ("BEHAVIOR", "reasoning"),
        ("robust_qas", None),
        ("corruption", None),
    ],
)
def test_the_capability_table(kind, capability):
    assert records.capability_of(kind) == capability


# ---------------------------------------------------------------- one bad record between two good ones
def turns(*pairs):
    return [{"role": r, "content": t} for r, t in pairs]


LONG = "x" * 200_000
BAD_RECORDS = {  # name → (record, code)
    "null": (None, "not-an-object"),
    "number": (3, "not-an-object"),
    "text": ("record", "not-an-object"),
    "list": ([drivekd()], "not-an-object"),
    "true": (True, "not-an-object"),
    "empty object": ({}, "question-missing"),
    "foreign object": ({"image_id": 3, "bbox": [1, 2]}, "question-missing"),
    "id is a list": (drivekd(id=[1]), "id-invalid"),
    "id is true": (drivekd(id=True), "id-invalid"),
    "id is a fraction": (drivekd(id=1.5), "id-invalid"),
    "type explanation": (drivekd(question_type="explanation"), "type-unknown"),
    "type unreasonable": (drivekd(question_type="unreasonable"), "type-unknown"),
    "type contains a name": (drivekd(question_type="perception/planning"), "type-unknown"),
    "type is a list": (drivekd(question_type=["planning"]), "type-unknown"),
    "type is a number": (drivekd(question_type=2), "type-unknown"),
    "type is an object": (drivekd(question_type={"planning": 1}), "type-unknown"),
    "type is blank": (drivekd(question_type=""), "type-unknown"),
    "type is false": (drivekd(question_type=False), "type-unknown"),
    "type is long": (drivekd(question_type=LONG), "type-unknown"),
    "type is null": (drivekd(question_type=None), "type-missing"),
    "type is absent": ({k: v for k, v in drivekd().items() if k != "question_type"}, "type-missing"),
    "messages is null": (drivekd(messages=None), "turns-invalid"),
    "messages is text": (drivekd(messages="hello"), "turns-invalid"),
    "messages is an object": (drivekd(messages={"user": "?"}), "turns-invalid"),
    "no messages": (drivekd(messages=[]), "question-missing"),
    "a message is null": (drivekd(messages=[None]), "turns-invalid"),
    "a message is text": (drivekd(messages=["?", "!"]), "turns-invalid"),
    "a message without role": (drivekd(messages=[{"content": "?"}]), "turns-invalid"),
    "a message without content": (drivekd(messages=[{"role": "user"}]), "turns-invalid"),
    "content is null": (drivekd(messages=turns(("user", None), ("assistant", "!"))), "turns-invalid"),
    "content is a list": (drivekd(messages=turns(("user", ["<image>?"]), ("assistant", "!"))), "turns-invalid"),
    "content is a number": (drivekd(messages=turns(("user", 7), ("assistant", "!"))), "turns-invalid"),
    "an unknown role": (drivekd(messages=turns(("user", "<image>?"), ("tool", "!"))), "turns-invalid"),
    "a role is a list": (drivekd(messages=turns((["user"], "<image>?"), ("assistant", "!"))), "turns-invalid"),
    "no user": (drivekd(messages=turns(("assistant", "!"))), "question-missing"),
    "no assistant": (drivekd(messages=turns(("user", "<image>?"))), "answer-missing"),
    "assistant first": (drivekd(messages=turns(("assistant", "!"), ("user", "<image>?"))), "turns-invalid"),
    "two users in a row": (drivekd(messages=turns(("user", "<image>?"), ("user", "?"), ("assistant", "!"))), "turns-invalid"),
    "system in the middle": (drivekd(messages=turns(("user", "<image>?"), ("system", "s"), ("assistant", "!"))), "turns-invalid"),
    "user has the last word": (drivekd(messages=turns(("user", "<image>?"), ("assistant", "!"), ("user", "?"))), "turns-invalid"),
    "only a system turn": (drivekd(messages=turns(("system", "s"))), "question-missing"),
    "blank question": (drivekd("<image> \n\t"), "question-empty"),
    "blank second question": (
        drivekd(messages=turns(("user", "<image>?"), ("assistant", "!"), ("user", " "), ("assistant", "!"))),
        "question-empty",
    ),
    "blank answer": (drivekd(messages=turns(("user", "<image>?"), ("assistant", "  "))), "answer-empty"),
    "no placeholder": (drivekd("?"), "placeholder-mismatch"),
    "too many placeholders": (drivekd("<image><image>?"), "placeholder-mismatch"),
    "too few placeholders": (drivekd("<image>?", images=["a.jpg", "b.jpg"]), "placeholder-mismatch"),
    "hundred thousand placeholders": (drivekd("<image>" * 100_000 + "?"), "placeholder-mismatch"),
    "placeholder in a later turn only too": (
        drivekd(messages=turns(("user", "<image>?"), ("assistant", "!"), ("user", "<image>?"), ("assistant", "!"))),
        "placeholder-mismatch",
    ),
    "placeholder in the answer": (drivekd(messages=turns(("user", "<image>?"), ("assistant", "<image>"))), "placeholder-misplaced"),
    "placeholder in the system turn": (
        drivekd(messages=turns(("system", "<image>"), ("user", "<image>?"), ("assistant", "!"))),
        "placeholder-misplaced",
    ),
    "no images": (drivekd("?", images=[]), "images-missing"),
    "images is null": (drivekd("?", images=None), "images-missing"),
    "images is a number": (drivekd(images=5), "images-invalid"),
    "an image is null": (drivekd(images=[None]), "images-invalid"),
    "an image is a list": (drivekd(images=[["a.jpg"]]), "images-invalid"),
    "an image is an object": (drivekd(images=[{"path": LONG}]), "images-invalid"),
    "an image is a number": (drivekd(images=[7]), "images-invalid"),
    "images is true": (drivekd(images=True), "images-invalid"),
    "path is empty": (drivekd(images=[""]), "path-invalid"),
    "path is blank": (drivekd(images=["  "]), "path-invalid"),
    "path with NUL": (drivekd(images=["a\0.jpg"]), "path-invalid"),
    "path with a newline": (drivekd(images=["a\n.jpg"]), "path-invalid"),
    "path with an escape sequence": (drivekd(images=["\x1b[2Ja.jpg"]), "path-invalid"),
    "path climbs": (drivekd(images=["../a.jpg"]), "path-outside"),
    "path climbs later": (drivekd(images=["samples/../../a.jpg"]), "path-outside"),
    "path climbs after the known prefix": (drivekd(images=["../nuscenes/../../etc/passwd"]), "path-outside"),
    "path ends climbing": (drivekd(images=["samples/.."]), "path-outside"),
    "path climbs the other way": (drivekd(images=["samples\\..\\..\\a.jpg"]), "path-outside"),
    "path is ..": (drivekd(images=[".."]), "path-outside"),
    "long climb": (drivekd(images=["../" * 60_000 + "etc/passwd"]), "path-outside"),
    "absolute path": (drivekd(images=["/etc/passwd"]), "path-absolute"),
    "network share": (drivekd(images=["\\\\host\\share\\a.jpg"]), "path-absolute"),
    "drive letter": (drivekd(images=["C:\\frames\\a.jpg"]), "path-absolute"),
    "drive letter, slash": (drivekd(images=["d:/frames/a.jpg"]), "path-absolute"),
    "two slashes": (drivekd(images=["//host/a.jpg"]), "path-absolute"),
    "http": (drivekd(images=["http://example.org/a.jpg"]), "path-url"),
    "https in capitals": (drivekd(images=["HTTPS://example.org/a.jpg"]), "path-url"),
    "file address": (drivekd(images=["file:///etc/passwd"]), "path-url"),
    "short file address": (drivekd(images=["file:/etc/passwd"]), "path-url"),
    "bucket": (drivekd(images=["s3://bucket/a.jpg"]), "path-url"),
    "data address": (drivekd(images=["data:image/png;base64,AAAA" + LONG]), "path-url"),
    "tag is text": (drivekd(tag="0"), "tag-invalid"),
    "tag is a number": (drivekd(tag=0), "tag-invalid"),
    "tag holds text": (drivekd(tag=["0"]), "tag-invalid"),
    "tag holds true": (drivekd(tag=[True]), "tag-invalid"),
    "tag holds a fraction": (drivekd(tag=[0.5]), "tag-invalid"),
}
RAW_RECORDS = {  # name → (JSON text of the record, code)
    "NaN": (json.dumps(drivekd(weight=float("nan"))), "not-finite"),
    "Infinity": (json.dumps(drivekd(weight=float("inf"))), "not-finite"),
    "-Infinity deep inside": (json.dumps(drivekd(a=[{"b": [float("-inf")]}])), "not-finite"),
    "1e999": ('{"question": "?", "answer": 1e999}', "not-finite"),
    "-1e999": ('{"tag": [-1e999]}', "not-finite"),
    "bare NaN": ("NaN", "not-finite"),
    "5000 digits": ('{"tag": [' + "9" * 5000 + "]}", "number-too-large"),
    "20 digits": ('{"id": 12345678901234567890}', "number-too-large"),
    "duplicate key": ('{"question_type": "planning", "question_type": "perception"}', "duplicate-key"),
    "duplicate key inside": ('{"messages": [{"role": "user", "role": "assistant", "content": "?"}]}', "duplicate-key"),
    "duplicate escaped key": ('{"a": 1, "\\u0061": 2}', "duplicate-key"),
    "many duplicate keys": ("{" + ", ".join(['"a": 1'] * 20_000) + "}", "duplicate-key"),
    "lone surrogate": (json.dumps(drivekd("<image>\ud83d?")), "lone-surrogate"),
    "lone low surrogate": (json.dumps(drivekd("<image>\ude00?")), "lone-surrogate"),
    "surrogates in the wrong order": (json.dumps(drivekd("<image>\ude00\ud83d?")), "lone-surrogate"),
    "surrogate in a path": (json.dumps(drivekd(images=["\udcff.jpg"])), "lone-surrogate"),
    "surrogate in a key": (json.dumps(drivekd(**{"\ud800": 1})), "lone-surrogate"),
    "deep list": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "too-deep"),
    "deep object": ('{"a":' * 50_000 + "1" + "}" * 50_000, "too-deep"),
    "deep list of brackets in text": ('{"t": "]]}\\"[", "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "too-deep"),
}


def survives(path: Path, code: str, where: int = 1, total: int = 3, **options):
    "The one bad record is skipped with its code; the others keep their places."
    got = read_records(path, **options)
    assert [(s.index, s.code) for s in got.skipped] == [(where, code)]
    assert [r.index for r in got] == [i for i in range(total) if i != where]
    message = got.skipped[0].message
    assert len(message) < 400 and message.isprintable() and code in CODES
    with pytest.raises(DataError) as caught:
        read_records(path, strict=True, **options)
    assert caught.value.code == code and f"record {where}" in str(caught.value) and str(path.name) in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "the user sees one sentence, not a chain of tracebacks"


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_skipped_and_its_neighbours_survive(name, tmp_path):
    bad, code = BAD_RECORDS[name]
    survives(write(tmp_path, "a.json", [drivekd(), bad, drivekd()]), code)


@pytest.mark.parametrize("name", RAW_RECORDS)
def test_json_that_python_would_take_or_choke_on_costs_one_record(name, tmp_path):
    bad, code = RAW_RECORDS[name]
    good = json.dumps(drivekd())
    survives(write(tmp_path, "a.json", f"[{good}, {bad}, {good}]"), code)


@pytest.mark.parametrize("name", [*RAW_RECORDS, *BAD_RECORDS])
def test_the_same_flaws_cost_one_line_in_json_lines(name, tmp_path):
    bad, code = RAW_RECORDS.get(name) or (json.dumps(BAD_RECORDS[name][0]), BAD_RECORDS[name][1])
    good = json.dumps(drivekd())
    survives(write(tmp_path, "a.jsonl", "\n".join([good, bad, good])), code)


@pytest.mark.parametrize(
    "line,code",
    [
        (b'{"a": ', "json-syntax"),
        (b"hello", "json-syntax"),
        (b'{"a": "\xff"}', "not-utf8"),
        (b"{'a': 1}", "json-syntax"),
        (b'{"a": 1} {"a": 2}', "json-syntax"),
        (b'{"a": "\x01"}', "json-syntax"),
        (b"\xe9", "not-utf8"),
        (b"]", "json-syntax"),
    ],
)
def test_one_bad_line_is_skipped_alone(line, code, tmp_path):
    good = json.dumps(drivekd()).encode()
    path = write(tmp_path, "a.jsonl", b"\n".join([good, b"", line, good, b"  ", b""]))
    survives(path, code)
    assert "line 3" in read_records(path).skipped[0].message


@pytest.mark.parametrize("ending", ["\r\n", "\n\n", "\n\u2028\n".replace("\u2028", " ")])
def test_blank_lines_and_line_endings_are_not_records(ending, tmp_path):
    assert len(read_records(write(tmp_path, "a.jsonl", ending.join([json.dumps(drivekd(), ensure_ascii=False)] * 3) + ending))) == 3


def test_a_line_separator_inside_a_text_does_not_end_a_line(tmp_path):
    assert len(read_records(write(tmp_path, "a.jsonl", json.dumps(drivekd("<image>a\u2028b\x85c?"), ensure_ascii=False)))) == 1


@pytest.mark.parametrize(
    "bad,code",
    [
        (frame_question(question_type="planning", image_path=dict.fromkeys(CAMERAS)), "images-missing"),
        (frame_question(question_type="planning"), "images-missing"),
        (frame_question(question_type="planning", image_path={"CAM_FRONT": 3}), "images-invalid"),
        (frame_question(question_type="planning", image_path={"CAM_FRONT": "samples/CAM_BACK/a.jpg"}), "camera-contradiction"),
        (frame_question(question_type="planning", image_path="CAM_FRONT"), None),
        (frame_question(question_type="planning", image_path=paths(), question="<image>?"), "placeholder-mismatch"),
        (frame_question(question_type="planning", image_path=paths(), question=""), "question-empty"),
        (frame_question(question_type="planning", image_path=paths(), question=None), "question-missing"),
        (frame_question(question_type="planning", image_path=paths(), answer=None), "answer-missing"),
        (frame_question(question_type="planning", image_path=paths(), answer=["B"]), "answer-missing"),
        (frame_question(question_type="planning", image_path=paths(), frame_token=["f"]), "id-invalid"),
        (frame_question(question_type="planning", image_path=paths(), scene_token=7), "id-invalid"),
        (frame_question(image_path=paths()), "type-missing"),
        (frame_question(question_type="robust", image_path=paths()), "type-unknown"),
        (frame_question(question_type="planning", image_path=paths(), tag=[None]), "tag-invalid"),
    ],
)
def test_bad_drivebench_rows(bad, code, tmp_path):
    good = frame_question(question_type="behavior", image_path=paths(), tag=[0])
    path = write(tmp_path, "a.json", [good, bad, good])
    if code:
        survives(path, code)
    else:
        assert len(read_records(path)) == 3


@pytest.mark.parametrize(
    "bad,code",
    [
        (None, "not-an-object"),
        ("?", "not-an-object"),
        ([], "not-an-object"),
        ({"A": "!"}, "question-missing"),
        (qa(None), "question-missing"),
        (qa(7), "question-missing"),
        (qa(" "), "question-empty"),
        (qa("?", 3), "answer-missing"),
        (qa("?", tag="0"), "tag-invalid"),
        (qa("<image>?"), "placeholder-mismatch"),
    ],
)
def test_bad_drivelm_questions_keep_the_count(bad, code, tmp_path):
    path = write(tmp_path, "a.json", nest({"perception": [qa("One?"), bad], "planning": [qa("Three?")]}, paths("../nuscenes/")))
    survives(path, code)
    assert [r.id[-1] for r in read_records(path)] == ["0", "2"]


@pytest.mark.parametrize(
    "groups,code",
    [
        ({"perception": [qa("?")], "percepton": [qa("?")], "planning": [qa("?")]}, "type-unknown"),
        ({"perception": [qa("?")], "behavior": "none", "planning": [qa("?")]}, "not-an-object"),
        ({"perception": [qa("?")], "behavior": None, "planning": [qa("?")]}, "not-an-object"),
    ],
)
def test_an_odd_group_of_questions_costs_itself_only(groups, code, tmp_path):
    survives(write(tmp_path, "a.json", nest(groups, paths())), code, where=2)


@pytest.mark.parametrize("frame", ["null", "7", "[]", '{"QA": []}', '{"QA": null}', "NaN"])
def test_a_broken_key_frame_is_one_skipped_entry(frame, tmp_path):
    good = json.dumps(nest({"planning": [qa("?")]}, paths())[SCENE]["key_frames"][FRAME])
    survives(
        write(tmp_path, "a.json", f'{{"s": {{"key_frames": {{"f0": {good}, "f1": {frame}, "f2": {good}}}}}}}'),
        "not-finite" if frame == "NaN" else "not-an-object",
    )


def test_both_frames_of_one_name_are_skipped_and_counted(tmp_path):
    frame = json.dumps(nest({"planning": [qa("One?"), qa("Two?")]}, paths())[SCENE]["key_frames"][FRAME])
    got = read_records(write(tmp_path, "a.json", f'{{"s": {{"key_frames": {{"f": {frame}, "g": {frame}, "f": {frame}}}}}}}'))
    assert [r.index for r in got] == [2, 3] and [(s.index, s.code) for s in got.skipped] == [(i, "duplicate-key") for i in (0, 1, 4, 5)]


def test_both_scenes_of_one_name_are_skipped_and_counted(tmp_path):
    scene = json.dumps(nest({"planning": [qa("?")]}, paths())[SCENE])
    got = read_records(write(tmp_path, "a.json", f'{{"s": {scene}, "t": {scene}, "s": {scene}}}'))
    assert [r.index for r in got] == [1] and {s.code for s in got.skipped} == {"duplicate-key"}


def test_a_frame_without_pictures_among_frames_with_them_is_skipped(tmp_path):
    two = nest({"planning": [qa("?")]}, paths())
    two["t"] = nest({"planning": [qa("?")]}, None)[SCENE]
    assert [s.code for s in read_records(write(tmp_path, "a.json", two)).skipped] == ["images-missing"]


def test_flaws_outside_a_question_do_not_cost_it(tmp_path):
    boxes = '{"<c1,CAM_BACK,1.5,2.5>": {"2d_bbox": [NaN, 1e999], "Status": "a", "Status": "b"}}'
    text = json.dumps(drivelm(key_object_infos="BOXES")).replace('"BOXES"', boxes)
    assert len(read_records(write(tmp_path, "a.json", text))) == 5


def test_a_list_in_a_jsonl_file_is_read_and_a_line_that_is_a_list_is_skipped(tmp_path):
    assert len(read_records(write(tmp_path, "a.jsonl", json.dumps([drivekd(), drivekd()], indent=1)))) == 2
    good = json.dumps(drivekd())
    survives(write(tmp_path, "b.jsonl", "\n".join(["[1, 2]", good, good])), "not-an-object", where=0)


# ---------------------------------------------------------------- files that cannot be used
BAD_FILES = {  # name → (bytes, code)
    "no bytes": (b"", "file-empty"),
    "only blanks": (b" \n\t ", "file-empty"),
    "only a mark": (b"\xef\xbb\xbf", "json-syntax"),
    "prose": (b"hello", "json-syntax"),
    "cut in a record": (json.dumps([drivekd()] * 3).encode()[:-90], "json-syntax"),
    "cut after a comma": (b'[{"a": 1},', "json-syntax"),
    "trailing comma": (b'[{"a": 1},]', "json-syntax"),
    "two lists": (b"[] []", "json-syntax"),
    "comments": (b"// x\n[]", "json-syntax"),
    "single quotes": (b"[{'a': 1}]", "json-syntax"),
    "python": (b"[None, True]", "json-syntax"),
    "html": (b"<html>404</html>", "json-syntax"),
    "control character in a text": (b'[{"a": "\x01"}]', "json-syntax"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "not-utf8"),
    "latin-1": ('[{"a": "é"}]'.encode("latin-1"), "not-utf8"),
    "overlong": (b'[{"a": "\xc0\xaf"}]', "not-utf8"),
    "raw surrogate": (b'["\xed\xa0\xbd"]', "not-utf8"),
    "utf-16": (json.dumps([drivekd()]).encode("utf-16"), "utf16"),
    "utf-16 without mark": (json.dumps([drivekd()]).encode("utf-16-le"), "utf16"),
    "utf-16 big": (json.dumps([drivekd()]).encode("utf-16-be"), "utf16"),
    "utf-32": (json.dumps([drivekd()]).encode("utf-32"), "utf16"),
    "null": (b"null", "wrong-root"),
    "number": (b"3", "wrong-root"),
    "text": (b'"hello"', "wrong-root"),
    "true": (b"true", "wrong-root"),
    "NaN": (b"NaN", "not-finite"),
    "empty object": (b"{}", "wrong-root"),
    "foreign object": (b'{"images": [], "annotations": []}', "wrong-root"),
    "data is an object": (b'{"data": {"a": 1}}', "wrong-root"),
    "one record": (json.dumps(drivekd()).encode(), "wrong-root"),
    "data twice": (b'{"data": [], "data": []}', "duplicate-key"),
    "empty list": (b"[]", "no-records"),
    "empty data": (b'{"data": []}', "no-records"),
    "foreign records": (b'[{"a": 1}, {"a": 2}]', "unknown-format"),
    "numbers": (b"[1, 2, 3]", "unknown-format"),
    "nothing but NaN": (b"[NaN, NaN]", "not-finite"),
    "deep": (b"[" * 200_000, "too-deep"),
    "deep and closed": (b"[" * 100_000 + b"]" * 100_000, "too-deep"),
    "deep objects": (b'{"a":' * 100_000, "too-deep"),
    "deep and cut": (b'[{"a": 1}, ' + b"[" * 100_000 + b'"' + b'\\"' * 100_000, "too-deep"),
    "visual descriptions": (
        json.dumps({SCENE: {"scene_description": "Rain.", "key_frames": {FRAME: {"key_object_infos": OBJECTS}}}}).encode(),
        "no-questions",
    ),
    "answer vocabulary": (b'[{"0": 0, "no": 1, "yes": 2}, {"0": "0", "1": "no", "2": "yes"}]', "no-questions"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_unusable_file_is_one_data_error_naming_the_file(name, tmp_path):
    data, code = BAD_FILES[name]
    path = write(tmp_path, "odd.json", data)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert caught.value.code == code and "odd.json" in str(caught.value)
    assert len(caught.value.message) < 400 and str(caught.value).isprintable() and caught.value.__suppress_context__


def test_a_syntax_error_names_line_and_column(tmp_path):
    with pytest.raises(DataError, match="line 3, column 8"):
        read_records(write(tmp_path, "a.json", '[\n {"a": 1},\n {"b": }\n]'))


@pytest.mark.parametrize("lines", [b"hello\nworld", b'{"a": \n{"a":', b"\xff\n\xff"])
def test_json_lines_without_one_good_line_are_refused(lines, tmp_path):
    with pytest.raises(DataError) as caught:
        read_records(write(tmp_path, "a.jsonl", lines))
    assert caught.value.code in ("json-syntax", "not-utf8")


def test_utf16_json_lines_are_refused_by_name(tmp_path):
    with pytest.raises(DataError) as caught:
        read_records(write(tmp_path, "a.jsonl", (json.dumps(drivekd()) + "\n").encode("utf-16")))
    assert caught.value.code == "utf16"


def test_a_byte_order_mark_is_accepted(tmp_path):
    assert len(read_records(write(tmp_path, "a.json", b"\xef\xbb\xbf" + json.dumps([drivekd()]).encode()))) == 1
    assert len(read_records(write(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + json.dumps(drivekd()).encode()))) == 1


@pytest.mark.parametrize(
    "make,code",
    [
        (lambda p: p.mkdir(), "file-unreadable"),
        (os.mkfifo, "file-unreadable"),
        (lambda p: None, "file-missing"),
        (lambda p: p.symlink_to(p), "file-unreadable"),
        (lambda p: p.symlink_to("/dev/zero"), "file-unreadable"),
    ],
)
def test_a_data_file_must_be_a_regular_file(make, code, tmp_path):
    make(tmp_path / "a.json")
    with pytest.raises(DataError) as caught:
        read_records(tmp_path / "a.json")
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["a\0.json", "x" * 5000 + ".json", "a.json/b.json", "\udcff.json", ""])
def test_odd_file_names_are_data_errors(name, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError) as caught:
        read_records(str(tmp_path) + "/" + name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_missing_image_root_is_said_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read_records(write(tmp_path, "a.json", [drivekd()]), image_root=tmp_path / "none")
    assert caught.value.code == "image-root-missing"


# ---------------------------------------------------------------- pictures
GREY = Image.fromarray(np.linspace(0, 255, 48 * 32).astype(np.uint8).reshape(32, 48))


def saved(kind, image=GREY, **options):
    return lambda p: image.save(p, kind, **options)


def patched(kind, change):
    "A picture whose bytes were changed."

    def make(path):
        GREY.convert("RGB").save(path, kind)
        path.write_bytes(change(path.read_bytes()))

    return make


def png_of_size(width, height):
    "A PNG that claims a size and holds almost nothing."

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def link(target):
    return lambda p: p.symlink_to(target(p) if callable(target) else target)


BAD_IMAGES = {  # name → (make file, code)
    "missing": (lambda p: None, "image-missing"),
    "folder": (lambda p: p.mkdir(), "image-not-a-file"),
    "pipe": (os.mkfifo, "image-not-a-file"),
    "zero bytes": (lambda p: p.touch(), "image-empty"),
    "prose": (lambda p: p.write_text("hello"), "image-unknown"),
    "html": (lambda p: p.write_text("<html>404 not found</html>"), "image-unknown"),
    "zeros": (lambda p: p.write_bytes(bytes(5000)), "image-unknown"),
    "postscript": (lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage"), "image-unknown"),
    "svg": (lambda p: p.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'), "image-unknown"),
    "ppm": (saved("PPM"), "image-unknown"),
    "ico": (saved("ICO"), "image-unknown"),
    "only a jpeg mark": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0"), "image-unknown"),
    "jpeg cut in the scan": (patched("JPEG", lambda b: b[:-200]), "image-corrupt"),
    "jpeg cut in the head": (patched("JPEG", lambda b: b[:180]), "image-unknown"),
    "jpeg cut by half": (patched("JPEG", lambda b: b[: len(b) // 2]), "image-corrupt"),
    "png cut": (patched("PNG", lambda b: b[:-40]), "image-corrupt"),
    "png with a wrong checksum": (patched("PNG", lambda b: b[:45] + bytes([b[45] ^ 1]) + b[46:]), "image-corrupt"),
    "png without data": (patched("PNG", lambda b: b[:33]), "image-unknown"),
    "webp cut": (patched("WEBP", lambda b: b[: len(b) // 2]), "image-corrupt"),
    "bmp cut": (patched("BMP", lambda b: b[:500]), "image-corrupt"),
    "tiff cut": (patched("TIFF", lambda b: b[:300]), ("image-corrupt", "image-unknown")),
    "gif cut": (patched("GIF", lambda b: b[:60]), ("image-corrupt", "image-unknown")),
    "text bomb in png": (lambda p: p.write_bytes(_png_with_text_bomb()), "image-corrupt"),
    "png that claims 60000 x 60000": (png_of_size(60_000, 60_000), "image-too-large"),
    "png that claims 10000 x 10000": (png_of_size(10_000, 10_000), "image-too-large"),
    "png that claims 7000 x 7000": (png_of_size(7000, 7000), "image-too-large"),
    "real bomb": (saved("PNG", Image.new("1", (9000, 9000))), "image-too-large"),
    "gif of two": (saved("GIF", save_all=True, append_images=[GREY.rotate(90)]), "image-animated"),
    "webp of two": (saved("WEBP", GREY.convert("RGB"), save_all=True, append_images=[GREY.rotate(90).convert("RGB")]), "image-animated"),
    "png of two": (saved("PNG", save_all=True, append_images=[GREY.rotate(90)]), "image-animated"),
    "tiff of two": (saved("TIFF", save_all=True, append_images=[GREY]), "image-animated"),
    "floating point": (saved("TIFF", GREY.convert("F")), "image-mode"),
    "32 bit": (saved("TIFF", GREY.convert("I")), "image-mode"),
    "lab": (saved("TIFF", GREY.convert("RGB").convert("LAB")), "image-mode"),
    "link to a file outside": (link("/etc/hostname"), "image-outside"),
    "link to a picture outside": (link(lambda p: _outside(p)), "image-outside"),
    "link climbing": (link("../../../../../../etc/hostname"), "image-outside"),
    "link to a device": (link("/dev/zero"), "image-outside"),
    "link to nothing": (link("nothing.jpg"), "image-missing"),
    "link to itself": (link(lambda p: p), "image-unreadable"),
    "link to the root": (link("."), "image-not-a-file"),
}


def _outside(path):
    target = path.parent.parent / "outside.jpg"
    GREY.save(target)
    return target


def _png_with_text_bomb():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    return (
        head + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000))) + chunk(b"IDAT", zlib.compress(bytes(20))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "frames").mkdir()
    GREY.convert("RGB").save(tmp_path / "frames/good.jpg")
    return tmp_path / "frames"


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_picture_costs_the_records_that_show_it(name, root, recwarn):
    make, code = BAD_IMAGES[name]
    make(root / "bad.jpg")
    path = write(root.parent, "a.json", [drivekd(images=["good.jpg"]), drivekd(images=["bad.jpg"]), drivekd(images=["good.jpg"])])
    assert len(read_records(path, root)) == 3, "unverified pictures are not opened"
    got = read_records(path, root, verify_images=True)
    codes = code if isinstance(code, tuple) else (code,)
    assert [s.index for s in got.skipped] == [1] and got.skipped[0].code in codes
    survives(path, got.skipped[0].code, image_root=root, verify_images=True)
    assert not recwarn.list, "Pillow's warnings do not reach the user"


@pytest.mark.parametrize(
    "name",
    [
        "[1].jpg",
        "*.jpg",
        "a?.jpg",
        "$HOME.jpg",
        "~.jpg",
        "`id`.jpg",
        "a b.jpg",
        "-rf.jpg",
        "ü 图.jpg",
        "a;b.jpg",
        "%2e%2e.jpg",
        "...",
        "a..b.jpg",
        "C:x.jpg",
        "x" * 200,
    ],
)
def test_names_are_opened_literally(name, root):
    record = read_records(write(root.parent, "a.json", [drivekd(images=[name])]), root)[0]
    with pytest.raises(DataError) as caught:
        load_image(record.images[0])
    assert caught.value.code == "image-missing", "good.jpg must not answer for a pattern"
    GREY.save(root / name, "PNG")
    assert load_image(record.images[0]).size == GREY.size


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "x" * 5000, "x/" * 3000 + "a.jpg"])
def test_names_beyond_the_systems_limits_are_one_sentence(name, root):
    got = read_records(write(root.parent, "a.json", [drivekd(images=[name])]), root, verify_images=True)
    assert got.skipped[0].code in ("image-unreadable", "image-missing") and len(got.skipped[0].message) < 400


def test_links_inside_the_root_are_followed(root):
    (root / "link.jpg").symlink_to("good.jpg")
    (root.parent / "rootlink").symlink_to(root)
    path = write(root.parent, "a.json", [drivekd(images=["link.jpg"])])
    assert len(read_records(path, root, verify_images=True)) == 1
    assert len(read_records(path, root.parent / "rootlink", verify_images=True)) == 1


def test_a_linked_folder_that_leads_outside_is_not_entered(root):
    (root.parent / "secret").mkdir()
    GREY.save(root.parent / "secret/a.jpg")
    (root / "samples").symlink_to(root.parent / "secret")
    got = read_records(write(root.parent, "a.json", [drivekd(images=["samples/a.jpg"])]), root, verify_images=True)
    assert got.skipped[0].code == "image-outside"


def test_references_survive_a_change_of_folder(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    record = read_records(write(root.parent, "a.json", [drivekd(images=["good.jpg"])]), "frames")[0]
    monkeypatch.chdir("/")
    assert load_image(record.images[0]).mode == "RGB"


def test_each_picture_is_decoded_once(root, monkeypatch):
    opened = []
    monkeypatch.setattr(records, "load_image", lambda ref: opened.append(ref.path.name) or load_image(ref))
    rows = [drivekd("<image><image>?", images=["good.jpg", n]) for n in ("good.jpg", "none.jpg", "none.jpg")]
    got = read_records(write(root.parent, "a.json", rows * 5), root, verify_images=True)
    assert sorted(opened) == ["good.jpg", "none.jpg"] and len(got) == 5


@pytest.mark.parametrize(
    "kind,mode",
    [
        ("JPEG", "L"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
        ("BMP", "RGB"),
        ("BMP", "P"),
        ("TIFF", "CMYK"),
        ("TIFF", "I;16"),
        ("TIFF", "I;16B"),
        ("TIFF", "YCbCr"),
        ("GIF", "P"),
    ],
)
def test_every_plain_mode_becomes_the_same_rgb_picture(kind, mode, root):
    if mode.startswith("I;16"):
        image = Image.fromarray(np.asarray(GREY).astype(">u2" if mode.endswith("B") else "<u2") * 257)
    else:
        image = GREY.convert("RGB").convert(mode) if mode not in ("1", "P") else GREY.convert(mode)
    image.save(root / "a.img", kind, **({"lossless": True} if kind == "WEBP" else {}))
    got = load_image(ImageRef(None, root / "a.img", root=root))
    assert got.mode == "RGB" and got.size == GREY.size
    wanted = GREY.convert("1").convert("L") if mode == "1" else GREY
    assert np.abs(np.asarray(got).astype(int).mean(2) - np.asarray(wanted)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_upright_whatever_their_orientation_tag(orientation, kind, root):
    flips = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = GREY.convert("RGB")
    for flip in flips.get(orientation, []):
        stored = stored.transpose(flip)
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(root / "a.img", kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))
    got = load_image(ImageRef(None, root / "a.img", root=root))
    assert np.abs(np.asarray(got).astype(int) - np.asarray(GREY.convert("RGB"))).mean() < 4


@pytest.mark.parametrize("mode,kind", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("PA", "TIFF"), ("RGBA", "TIFF")])
def test_transparency_is_laid_over_black(mode, kind, root):
    image = Image.new("P" if mode == "PA" else mode[:-1], (4, 4), 0 if mode == "PA" else (200,) * (len(mode) - 1))
    if mode == "PA":
        image.putpalette([200, 200, 200])
    image.putalpha(Image.fromarray(np.eye(4, dtype=np.uint8) * 255))
    image.save(root / "a.img", kind, **({"lossless": True} if kind == "WEBP" else {}))
    got = load_image(ImageRef(None, root / "a.img", root=root))
    assert image.mode == mode and got.getpixel((0, 0)) == (200, 200, 200) and got.getpixel((3, 0)) == (0, 0, 0)


def test_a_transparent_palette_is_laid_over_black(root):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    image.save(root / "a.png", transparency=0)
    got = load_image(ImageRef(None, root / "a.png", root=root))
    assert (got.getpixel((0, 0)), got.getpixel((1, 1))) == ((0, 0, 0), (200, 100, 50))


def test_a_phone_jpeg_with_a_preview_gives_its_main_picture(root):
    GREY.convert("RGB").save(root / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert load_image(ImageRef(None, root / "a.jpg", root=root)).size == GREY.size


def test_damaged_exif_is_no_reason_to_fail_or_it_is_said(root):
    GREY.convert("RGB").save(root / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    try:
        assert load_image(ImageRef(None, root / "a.jpg", root=root)).size == GREY.size
    except DataError as e:
        assert e.code == "image-corrupt"


# ---------------------------------------------------------------- the promises as a whole
def test_a_heap_of_bad_records_is_counted_to_the_last(tmp_path):
    rows = [bad for bad, _ in BAD_RECORDS.values()]
    mixed = [row for bad in rows for row in (drivekd(), bad)] + [drivekd()]
    got = read_records(write(tmp_path, "a.json", mixed))
    assert len(got) == len(rows) + 1 and [s.index for s in got.skipped] == list(range(1, len(mixed), 2))
    assert [s.code for s in got.skipped] == [code for _, code in BAD_RECORDS.values()]


def test_every_code_that_is_raised_stands_in_the_table_and_every_code_of_the_table_is_raised():
    from drivekd.data import jsonfiles

    source = "".join(Path(m.__file__).read_text() for m in (formats, images, jsonfiles, records))
    used = set(re.findall(r'(?:DataError|Flaw|flaw)\(\s*"([a-z0-9-]+)"', source)) | set(
        re.findall(r'"((?:question|answer)-missing)"', source)
    )
    assert used == set(CODES)


def test_reading_opens_no_picture_and_touches_no_network(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("network"))
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("opened a picture"))
    assert len(read_records(write(tmp_path, "a.json", [drivekd(images=[n]) for n in ("a.jpg", "[b].jpg")]))) == 2


def test_the_hosts_pillow_settings_are_left_alone(root):
    before = (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES)
    load_image(ImageRef(None, root / "good.jpg", root=root))
    assert (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES) == before


def test_records_travel_to_worker_processes(root):
    import pickle

    got = read_records(write(root.parent, "a.json", [drivekd(images=["good.jpg"]), None]), root)
    assert list(pickle.loads(pickle.dumps(got))) == list(got)


@pytest.mark.parametrize("value", [LONG, "\x00" * 200_000, "\u202e" * 100, {"a": LONG}, [LONG], 10**300, -0.0, None, True, "\ud800"])
def test_shown_values_fit_and_are_printable(value):
    text = problems.show(value)
    assert len(text) < 400 and text.isprintable()


def test_twenty_thousand_records_take_seconds(tmp_path):
    import time

    rows = [
        frame_question(question_type="planning", frame_token=f"{i // 6:032x}", image_path=paths(f"{i // 6}/"), tag=[1])
        for i in range(20_000)
    ]
    path = write(tmp_path, "a.json", rows)
    start = time.process_time()
    assert len(read_records(path)) == 20_000
    assert time.process_time() - start < 20, "measured: about 2 s"


# ---------------------------------------------------------------- whatever comes
NASTY = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    " ",
    "<image>",
    "\x1b[2J",
    "../x",
    "/x",
    [],
    {},
    [None],
    {"a": None},
    LONG,
    "perception",
    ["planning"],
    {"CAM_FRONT": 1},
    "\ud800",
]


def spots(node, path=()):
    "Every place in a tree."
    yield path
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from spots(child, (*path, key))


def replaced(node, path, value):
    "The tree with one place changed."
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("name", [n for n, (_, content, *_) in SPECIMENS.items() if isinstance(content, list)])
def test_any_value_at_any_place_of_a_record_costs_at_most_this_record(name, tmp_path):
    file, content, _, _, _ = SPECIMENS[name]
    first = content[0]
    for path in spots(first):
        for value in NASTY:
            got = read_records(write(tmp_path, file, [first, replaced(first, path, value), first, first]))
            assert len(got) + len(got.skipped) == 4 and {s.index for s in got.skipped} <= {1}, (path, value)
            assert all(s.code in CODES and len(s.message) < 400 and s.message.isprintable() for s in got.skipped)


def test_any_value_at_any_place_of_a_nest_is_a_sentence(tmp_path):
    tree = drivelm(key_object_infos=OBJECTS)
    for path in spots(tree):
        for value in NASTY:
            try:
                got = read_records(write(tmp_path, "a.json", json.dumps(replaced(tree, path, value))))
            except DataError as e:
                assert len(path) < 6 and e.code in CODES and len(e.message) < 400
            else:
                assert all(s.code in CODES and len(s.message) < 400 for s in got.skipped)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_bytes_are_a_picture_or_a_sentence(kind, root):
    GREY.convert("RGB").save(root / "a.img", kind, exif=Image.Exif())
    whole, random = (root / "a.img").read_bytes(), np.random.default_rng(7)
    for _ in range(150):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for at in random.integers(0, len(data), random.integers(1, 9)):
            data[at] = random.integers(0, 256)
        (root / "a.img").write_bytes(data)
        try:
            assert load_image(ImageRef(None, root / "a.img", root=root)).mode == "RGB"
        except DataError as e:
            assert e.code in problems.IMAGE_CODES and str(e).isprintable()


def test_damaged_json_is_a_record_set_or_a_sentence(tmp_path):
    whole, random = json.dumps([drivekd(), drivekd("<image>é 图?")], ensure_ascii=False).encode(), np.random.default_rng(7)
    for _ in range(400):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.3 else whole)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] = random.integers(0, 256)
        for name in ("a.json", "a.jsonl"):
            try:
                got = read_records(write(tmp_path, name, bytes(data)))
            except DataError as e:
                assert e.code in CODES and str(e).isprintable() and len(e.message) < 400
            else:
                assert len(got) + len(got.skipped) >= 1


# ---------------------------------------------------------------- real files, where there are any
REAL = os.environ.get("DRIVEKD_REALDATA")
real = pytest.mark.skipif(not REAL, reason="DRIVEKD_REALDATA does not name a folder with real files (their licences forbid shipping them)")
REAL_FILES = {  # file → (format, records)
    "drivekd_demo.json": ("drivekd", 7),
    "drivelm_v1_1_train_sample.json": ("drivelm", 790),
    "drivelm_test_eval.json": ("drivelm", 66),
    "drivelm_test_open_answers.json": ("drivelm", 66),
    "drivelm_output_llama_adapter.json": ("drivelm-predictions", 66),
    "drivelm_llava_conversations.json": ("llava", 66),
    "drivebench_test_raw_excerpt.json": ("drivebench", 12),
    "drivebench_test_final_excerpt.json": ("drivebench", 15),
    "robosense_track1_release.json": ("robosense", 1396),
    "robosense_phase1_converted_excerpt.json": ("robosense", 60),
    "robosense_phase1_results_excerpt.json": ("robosense", 46),
    "llava_single_image_string_excerpt.jsonl": ("llava", 85),
    "qwen_vl_finetune_single_images.json": ("llava", 3),
    "nuscenes_qa_SCHEMA_ONLY_synthetic.json": ("nuscenes-qa", 3),
}


@real
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_are_read_whole(name):
    got = read_records(Path(REAL) / "formats" / name)
    assert (got.format, len(got), got.skipped) == (*REAL_FILES[name], ())


@real
@pytest.mark.parametrize("name", ["drivebench_visual_description.json", "nuscenes_qa_answer_dict.json"])
def test_real_companion_files_are_refused_by_name(name):
    with pytest.raises(DataError) as caught:
        read_records(Path(REAL) / "formats" / name)
    assert caught.value.code == "no-questions"


@real
@pytest.mark.parametrize("name", ["drivekd_style_boston.json", "drivebench_style_boston.json"])
def test_real_frames_are_all_opened(name):
    got = read_records(Path(REAL) / name, Path(REAL) / "frames", verify_images=True)
    assert len(got) == 31 and not got.skipped and {load_image(i).size for i in got[0].images} == {(1600, 900)}
    assert {i.camera for r in got for i in r.images} == set(CAMERAS)
