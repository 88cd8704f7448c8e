"The curriculum: labels are what the pictures show, lessons are true when read again, and an interrupted training is the same training."
import json
import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from drivekd.data.cameras import CAMERAS, parse_tags
from drivekd.data.formats import Turn
from drivekd.data.images import ImageRef
from drivekd.data.jsonfiles import read_log
from drivekd.data.questions import CHOICE_KINDS
from drivekd.data.records import VQARecord
from drivekd.data.render import view
from drivekd.data.traffic import COLORS, KINDS, STEERING, VEHICLES, Thing, simulate
from drivekd.distill.hooks import QueryKey
from drivekd.models.batching import Batcher
from drivekd.models.family_miniatures import miniature_vlm
from drivekd.models.loading import VLM
from drivekd.models.miniature import build_miniature
from drivekd.study.curriculum import (
    Answer,
    Point,
    Refine,
    Stage,
    choice_accuracy,
    conversation,
    learned_logits,
    looking_loss,
    place_shares,
    plain_choice,
    points,
    shuffled,
    teach,
    train,
    world_texts,
)
from drivekd.study.seeing import (
    CELL,
    ENDS,
    LIT,
    SIDES,
    STATUSES,
    TOKEN_HEADS,
    Pool,
    See,
    collect,
    dense_labels,
    image_features,
    merged,
    mirrored,
    showing,
    shown,
    window,
)


@pytest.fixture
def rng(): return np.random.default_rng(0)


@pytest.fixture(scope="session")
def labels(pool): return dense_labels(pool)


def fresh(processor, student, seed=0):
    "A student of one's own, to be trained."
    return VLM(build_miniature(processor, "student", seed), processor, student.family)


def state(vlm): return {k: v.clone() for k, v in vlm.model.state_dict().items()}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(a, b): return {k for k in a if not torch.equal(a[k], b[k])}


def options(text):
    "Letter and option of everything that reads like an option."
    return dict(re.findall(r"\b([A-D])\. (.*?)(?= [A-D]\. |$)", text))


@pytest.fixture(scope="session")
def wide_pool(): return collect("train", 3, size=(140, 84))


@pytest.fixture(scope="session")
def wide_student(wide_pool):
    "A student of another family, which keeps a picture's shape."
    vlm = miniature_vlm("qwen2_5_vl", world_texts(wide_pool), patch=CELL // 2)
    vlm.family.scale(vlm.processor, 12_800)
    return vlm


# pools

@pytest.mark.parametrize("size", [(112, 100), (126, 112), (0, 28), (-28, 28)])
def test_a_picture_has_an_even_number_of_cells_each_way(size):
    with pytest.raises(ValueError, match="multiples of 28"): collect("train", 1, size=size)


def test_pools_of_two_shapes_show_the_same_scenes_in_files_of_their_own(tmp_path, wide_pool):
    square, wide = (collect("train", 3, folder=tmp_path, size=size) for size in ((112, 112), (140, 84)))
    assert square.scenes == wide.scenes
    assert len(list(tmp_path.iterdir())) == 4 and wide.size == (140, 84) and wide.cells.shape[2:] == (6, 10) and np.array_equal(wide.pixels, wide_pool.pixels)


def test_wide_labels_lie_where_the_picture_shows_the_thing(wide_pool):
    near = [(n, c, b) for n, c, b in shown(wide_pool) if b["seen"] > .95 and b["w"] > .15 and b["h"] > .2 and wide_pool.scenes[n]["things"][b["thing"]]["kind"] in VEHICLES]
    assert near and all(wide_pool.cells[n, c][int(6 * b["y"]), int(10 * b["x"])] == b["thing"] for n, c, b in near)


def test_a_place_is_numbered_like_the_tokens_of_a_wide_picture(wide_pool, wide_student):
    boxes, _ = wide_student.family.boxes(wide_student.processor, wide_pool.size)
    centres = torch.tensor((boxes[:, :2] + boxes[:, 2:]) / 2).float()
    assert place_shares(centres, rows=6, columns=10).argmax(1).tolist() == list(range(60))


def test_a_student_of_another_family_learns_to_see_and_to_point(tmp_path, wide_pool, wide_student):
    vlm = VLM(deepcopy(wide_student.model), wide_student.processor, wide_student.family)
    for task, steps, rate in ((See(wide_pool, batch_size=4), 12, 5e-3), (Point(wide_pool, batch_size=2), 8, 3e-3)):
        train(vlm, task, steps, tmp_path / type(task).__name__, rate)
        losses = [row["loss"] for row in read_log(tmp_path / type(task).__name__ / "losses.jsonl")]
        assert sum(losses[-3:]) < .9 * sum(losses[:3])


def test_a_pool_is_read_back_as_it_was_collected(tmp_path):
    made, read = collect("validation", 1, folder=tmp_path), collect("validation", 1, folder=tmp_path)
    assert np.array_equal(made.pixels, read.pixels) and np.array_equal(made.cells, read.cells) and made.pixels.any()
    assert json.loads(json.dumps(made.scenes, default=lambda o: o.item())) == read.scenes


def test_splits_show_different_scenes(pool):
    assert not np.array_equal(collect("test", 1).pixels[0], pool.pixels[0])


def test_merged_pools_keep_scenes_and_arrays_together(pool):
    first, last = (Pool(pool.pixels[part], pool.cells[part], pool.scenes[part]) for part in (slice(1), slice(3, 4)))
    both = merged([first, last])
    assert len(both) == 2 and both.scenes == [pool.scenes[0], pool.scenes[3]]
    assert np.array_equal(both.pixels, pool.pixels[[0, 3]]) and np.array_equal(both.cells, pool.cells[[0, 3]])


# labels

SIDE_TRUTH = {  # status: which half of the picture of a vehicle is lit, seen from its back and from its front
    "going ahead": ("none", "none"), "turn left": ("left half", "right half"), "turn right": ("right half", "left half"), "stopped": ("both", "both")}


@pytest.mark.parametrize("status", SIDE_TRUTH)
def test_the_lit_half_is_that_of_the_truth_table(status):
    assert tuple(LIT[SIDES[STATUSES.index(status), ENDS.index(end)]] for end in ("back", "front")) == SIDE_TRUTH[status]


def test_nothing_is_lit_where_there_is_no_vehicle_that_says_so():
    others = [s for s in STATUSES if s not in SIDE_TRUTH]
    assert len(others) == 6 and not SIDES[[STATUSES.index(s) for s in others]].any() and not SIDES[:4, ENDS.index("no vehicle")].any()


@pytest.mark.parametrize("status", ["turn left", "turn right"])
@pytest.mark.parametrize("end", ["back", "front"])
def test_the_picture_lights_the_half_that_the_table_says(status, end):
    scene = replace(simulate(1, 0), things=(Thing("car", "white", status, 11.0, 0.0, heading=0.0 if end == "back" else np.pi),), weather="clear", time_of_day="day")
    seen = view(scene, "CAM_FRONT")
    (box,), (red, green, blue) = seen.boxes, np.moveaxis(np.asarray(seen.image).astype(int), 2, 0)
    amber = (red > 200) & (green > 80) & (red - blue > 120) & (seen.ids == 0)
    half = "left half" if np.nonzero(amber)[1].mean() / amber.shape[1] < box.centre[0] else "right half"
    assert amber.any() and half == LIT[SIDES[STATUSES.index(status), 1 + box.front]] and box.front == (end == "front")


def test_every_cell_is_labelled_as_the_thing_it_shows(pool, labels):
    for (n, c, row, column), thing in np.ndenumerate(pool.cells):
        at = {k: labels[k][n, c, row, column] for k in TOKEN_HEADS}
        if thing < 0:
            assert set(at.values()) == {0}
            continue
        truth, boxes = pool.scenes[n]["things"][thing], [b for b in pool.scenes[n]["boxes"][c] if b["thing"] == thing]
        vehicle = truth["kind"] in VEHICLES
        assert KINDS[at["kind"] - 1] == truth["kind"] and (at["color"] and COLORS[at["color"] - 1]) == (truth["color"] if truth["color"] in COLORS else 0)
        assert at["front"] == (1 + boxes[0]["front"] if vehicle and boxes else 0)
        hidden = vehicle and not (boxes and boxes[0]["lit"])
        assert (at["status"], at["side"]) == (-100, -100) if hidden else STATUSES[at["status"]] == truth["status"]


def test_steering_is_undecided_exactly_where_the_scene_says_nothing(pool):
    scenes = [s | dict(behaviour=b) for s, b in zip(pool.scenes, [None, ("slightly left", "fast"), None, ("right", "not moving")], strict=True)]
    decided = dense_labels(replace(pool, scenes=scenes))
    assert decided["steering"].tolist() == [-100, 1, -100, 4] and decided["speed"].tolist() == [-100, 3, -100, 0]


def test_only_things_large_and_free_enough_are_shown(pool):
    boxes = [(n, c, b) for n, s in enumerate(pool.scenes) for c in range(6) for b in s["boxes"][c]]
    found = shown(pool)
    assert 0 < len(found) < len(boxes) and all(b["seen"] >= .5 and b["w"] >= .05 for _, _, b in found)
    assert {tuple(p) for p in showing(pool).tolist()} == {(n, c) for n, c, _ in found}


# windows and mirrors

def toy():
    "A stopped car over cells 2 to 5 of rows 2 and 3, and a pedestrian over all of column 7."
    cells = np.full((1, 6, 8, 8), -1, np.int16)
    cells[0, 0, 2:4, 2:6], cells[0, 0, :, 7] = 0, 1
    boxes = [dict(thing=0, x=.5, y=.375, w=.5, h=.25, seen=1., front=0, lit=True), dict(thing=1, x=.9375, y=.5, w=.125, h=1., seen=1., front=0, lit=False)]
    things = [dict(kind="car", color="red", status="stopped", name="red car"), dict(kind="pedestrian", color="blue", status="standing", name="pedestrian in blue")]
    pixels = np.random.default_rng(0).integers(256, size=(1, 6, 112, 112, 3), dtype=np.uint8)
    return Pool(pixels, cells, [dict(things=things, boxes=[boxes, [], [], [], [], []], behaviour=None, questions=[])])


@pytest.mark.parametrize(("row", "column", "cut"), [(0, 2, False), (2, 2, False), (0, 0, True), (0, 4, True), (3, 2, True), (0, 1, True)])
def test_a_vehicle_cut_off_loses_status_and_side_but_keeps_its_class(row, column, cut):
    _, found = window(pool := toy(), dense_labels(pool), 0, 0, row, column)
    car = pool.cells[0, 0, row:row + 4, column:column + 4] == 0
    assert car.any() and set(found["kind"][car]) == {1} and set(found["color"][car]) == {1} and set(found["front"][car]) == {1}
    assert set(found["status"][car]) == {-100 if cut else STATUSES.index("stopped")} and set(found["side"][car]) == {-100 if cut else LIT.index("both")}


def test_a_pedestrian_cut_off_keeps_its_status():
    _, found = window(pool := toy(), dense_labels(pool), 0, 0, 4, 4)
    assert set(found["status"][:, 3]) == {STATUSES.index("standing")}


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_a_window_is_its_part_of_the_picture_and_changes_nothing(shape, request, rng):
    pool = request.getfixturevalue("pool" if shape == "square" else "wide_pool")
    labels, (down, across) = dense_labels(pool), (side // 2 for side in pool.cells.shape[2:])
    before = {k: labels[k].copy() for k in TOKEN_HEADS}
    for n, c in showing(pool):
        row, column = rng.integers(down + 1), rng.integers(across + 1)
        pixels, found = window(pool, labels, n, c, row, column)
        assert np.array_equal(pixels, pool.pixels[n, c][row * CELL:, column * CELL:][:down * CELL, :across * CELL])
        for k in TOKEN_HEADS:
            whole = labels[k][n, c][row:row + down, column:column + across]
            assert ((found[k] == whole) | ((found[k] == -100) & (k in ("status", "side")))).all()
    assert all(np.array_equal(before[k], labels[k]) for k in before)


HANDED = {"status": [("turn left", "turn right")], "side": [("left half", "right half")], "steering": [("slightly left", "slightly right"), ("left", "right")]}


def test_a_mirror_exchanges_left_and_right_and_nothing_else():
    for key, words in (("status", STATUSES), ("side", LIT), ("steering", STEERING)):
        partner = {a: b for pair in HANDED[key] for a, b in (pair, pair[::-1])}
        _, turned = mirrored(np.zeros((1, 1, 3)), {key: np.arange(len(words))})
        assert [words[i] for i in turned[key]] == [partner.get(w, w) for w in words]


def test_mirroring_twice_changes_nothing_and_once_turns_every_map(rng):
    pixels = rng.integers(256, size=(112, 112, 3))
    before = {k: rng.choice([-100, *range(n)], size=(8, 8)) for k, n in TOKEN_HEADS.items()} | dict(steering=np.array(1), speed=np.array(3))
    once = mirrored(pixels, before)
    twice = mirrored(*once)
    assert np.array_equal(twice[0], pixels) and all(np.array_equal(twice[1][k], before[k]) for k in before)
    assert np.array_equal(once[0][:, 0], pixels[:, -1]) and np.array_equal(once[1]["kind"][:, 0], before["kind"][:, 7]) and once[1]["speed"] == 3
    assert np.array_equal(once[1]["status"] == -100, before["status"][:, ::-1] == -100)


def test_a_batch_for_the_tower_has_one_label_a_token_and_repeats_with_its_seed(pool):
    task = See(pool, batch_size=6, mosaics=3)
    pixels, found = task.batch(np.random.default_rng(5))
    again, _ = task.batch(np.random.default_rng(5))
    assert pixels.shape == (6, 112, 112, 3) and all(found[k].shape == (6, 64) for k in TOKEN_HEADS) and np.array_equal(pixels, again)
    assert (found["steering"][:3] == -100).all() and (found["kind"] > 0).any(1).all()


# lessons

def said(thing, box):
    "What a point should say, spelled out once more."
    parts = [thing["name"]] + ([["back visible", "front visible"][box["front"]]] if thing["kind"] in VEHICLES else [])
    return ", ".join(parts + ([thing["status"]] if box["lit"] or thing["kind"] not in VEHICLES else []))


def test_points_name_every_thing_once_inside_its_box_and_none_only_on_empty_cells(pool, rng):
    nones = 0
    for n, c in showing(pool).tolist():
        boxes = [b for m, d, b in shown(pool) if (m, d) == (n, c)]
        for _ in range(5):
            found = points(pool.scenes[n], boxes, pool.cells[n, c], c, rng)
            tags = [parse_tags(tag)[0] for tag, _ in found]
            assert [t.id for t in tags] == [f"c{i + 1}" for i in range(len(found))] and {t.camera for t in tags} == {CAMERAS[c]}
            assert Counter(name for _, name in found if name != "none") == Counter(said(pool.scenes[n]["things"][b["thing"]], b) for b in boxes)
            for tag, (_, name) in zip(tags, found, strict=True):
                if name == "none": nones += 1
                empty = pool.cells[n, c][int(8 * tag.y), int(8 * tag.x)] < 0
                near = [b for b in boxes if abs(tag.x - b["x"]) <= .16 * b["w"] and abs(tag.y - b["y"]) <= .16 * b["h"]]
                assert empty if name == "none" else name in [said(pool.scenes[n]["things"][b["thing"]], b) for b in near]
    assert nones == 3 * 5 * len(showing(pool))


def test_a_picture_without_an_empty_cell_has_no_empty_points(pool, rng):
    n, c, box = shown(pool)[0]
    assert len(points(pool.scenes[n], [box], np.zeros((8, 8), int), c, rng)) == 1


def test_a_lesson_of_points_never_names_a_thing_twice_and_learns_no_tag(pool, student, processor, rng):
    task = Point(pool, plain=0, statuses=0)
    task.modules(student)
    for n, c in showing(pool).tolist():
        lesson = task.lesson(n, c, rng)
        text = processor.tokenizer.decode(lesson.labels[lesson.labels >= 0])
        boxes = [b for m, d, b in shown(pool) if (m, d) == (n, c)]
        named = Counter(line.strip() for line in text.removesuffix("<|im_end|>").split("\n")) - Counter({"none": 3})
        assert named <= Counter(said(pool.scenes[n]["things"][b["thing"]], b) for b in boxes) and named.total() == min(len(boxes), 6)
        assert "<c" not in text and lesson.cameras == [c] and lesson.scene == n


def test_points_asked_for_their_status_say_it_only_where_it_can_be_seen(pool, student, processor, rng):
    task, seen = Point(pool, plain=0, statuses=1), Counter()
    task.modules(student)
    for n, c in showing(pool).tolist():
        lesson = task.lesson(n, c, rng)
        boxes = [b for m, d, b in shown(pool) if (m, d) == (n, c)]
        assert "Name the status at each point." in processor.tokenizer.decode(lesson.input_ids)
        lines = processor.tokenizer.decode(lesson.labels[lesson.labels >= 0]).removesuffix("<|im_end|>").split("\n")
        statuses = [said(pool.scenes[n]["things"][b["thing"]], b).split(", ") for b in boxes]
        allowed = Counter({"none": 3}) + Counter(parts[-1] if " visible" not in parts[-1] else "unclear" for parts in statuses)
        assert Counter(line.strip() for line in lines) <= allowed
        seen.update(line.strip() for line in lines)
    assert seen["unclear"] and seen.keys() - {"none", "unclear"}


def test_a_lesson_knows_where_each_of_its_tags_ends_and_points(pool, student, processor, rng):
    task = Point(pool)
    task.modules(student)
    for n, c in showing(pool).tolist():
        lesson = task.lesson(n, c, rng)
        text = processor.tokenizer.decode(lesson.input_ids)
        assert lesson.places.tolist() == torch.tensor([(t.x, t.y) for t in parse_tags(text)]).tolist()
        for end, tag in zip(lesson.ends.tolist(), parse_tags(text), strict=True):
            assert processor.tokenizer.decode(lesson.input_ids[:end + 1]) == text[:tag.span[1]]


def test_a_conversation_without_tags_points_nowhere(student):
    lesson = conversation(Batcher(student), [("What is it?", "A car.")], [0])
    assert lesson.ends.shape == (0,) and lesson.ends.dtype == torch.long and lesson.places.shape == (0, 2)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (6, 10)])
def test_a_point_belongs_to_the_tokens_around_it(rows, columns):
    places = torch.cat([torch.rand(40, 2), torch.tensor([[0., 0.], [1., 1.], [.5, 1.]])])
    shares = place_shares(places, rows=rows, columns=columns).view(-1, rows, columns)
    across, down = ((torch.arange(n) + .5) / n for n in (columns, rows))
    assert (shares >= 0).all() and ((shares > 0).sum((1, 2)) <= 4).all() and torch.allclose(shares.sum((1, 2)), torch.ones(len(places)))
    mean, rim = torch.stack([(shares.sum(1) * across).sum(1), (shares.sum(2) * down).sum(1)], 1), torch.tensor([.5 / columns, .5 / rows])
    assert torch.allclose(mean, places.clamp(rim, 1 - rim), atol=1e-6)


def test_looking_is_the_cross_entropy_of_the_first_half_of_the_heads():
    torch.manual_seed(0)
    layer = QueryKey(torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), scaling=.3)
    sequence, ends, columns = torch.tensor([0, 1, 1]), torch.tensor([8, 5, 7]), torch.tensor([[1, 2], [0, 3], [2, 4]])
    shares = torch.tensor([[.2, .8], [1., 0.], [.5, .5]])
    costs = []
    for b, end, at, share in zip(sequence, ends, columns, shares, strict=True):
        for head in (0, 1):
            scores = layer.query[b, head, end] @ layer.key[b, head // 2, :end + 1].T * .3
            costs.append(-(share * scores.softmax(0)[at].log()).sum())
    found = looking_loss(layer, sequence, ends, columns, shares)
    assert torch.isclose(found, torch.stack(costs).mean(), atol=1e-6)
    behind = replace(layer, key=torch.cat([layer.key[:, :, :8], layer.key[:, :, 8:] + 100], 2))
    assert torch.equal(looking_loss(layer, sequence[1:], ends[1:], columns[1:], shares[1:]), looking_loss(behind, sequence[1:], ends[1:], columns[1:], shares[1:]))


def test_plain_choices_have_one_right_option_and_say_its_words(pool, rng):
    letters, keys = Counter(), set()
    for n, c, box in shown(pool) * 3:
        question, answer = plain_choice(pool.scenes[n], box, c, rng, ("color", "kind", "status"))
        thing, found = pool.scenes[n]["things"][box["thing"]], options(question.split(": ", 1)[1])
        key = "color" if "colour" in question else "status" if "status" in question else "kind"
        assert key != "status" or (thing["kind"] in VEHICLES and box["lit"])
        (letter,) = (l for l, option in found.items() if answer == f"Final: {option}")
        assert len(set(found.values())) == 4 and found[letter] == thing[key].capitalize() + "."
        letters[letter] += 1
        keys.add(key)
    assert set(letters) == set("ABCD") and keys == {"color", "kind", "status"}


def test_shuffled_options_stay_the_same_and_the_right_one_moves_to_every_letter(pool, rng):
    letters = Counter()
    for question in [q for s in pool.scenes for q in s["questions"] if q["options"]]:
        for _ in range(4):
            asked, answer = shuffled(question, rng)
            found = options(asked.split("options: ", 1)[1])
            (letter,) = (l for l, option in found.items() if answer.split("\n")[0] == f"Final: {option}")
            assert found[letter] == question["options"][question["correct"]] and set(found.values()) == set(question["options"])
            assert asked.startswith(question["stem"]) and answer.split("\n", 1)[1] == question["body"]
            letters[letter] += 1
    assert min(letters[letter] for letter in "ABCD") > .15 * letters.total()


def test_questions_without_options_stay_as_they_are(pool, rng):
    question = next(q for q in pool.scenes[0]["questions"] if not q["options"])
    assert shuffled(question, rng) == (question["question"], question["answer"])


def lopsided():
    "Twenty scenes where the answer is the first option and one where it is the second."
    def ask(correct):
        return dict(kind="moving status", capability="perception", cameras=[0], question="How? A. Fast. B. Slow.", answer="", stem="How?", body="Object: car",
                    options=["Fast.", "Slow."], correct=correct, letter="AB"[correct])
    return Pool(np.zeros((21, 6, 1, 1, 3), np.uint8), np.zeros((21, 6, 8, 8), np.int16), [dict(questions=[ask(int(n == 20))]) for n in range(21)])


def answers(task, student, batches, rng):
    "What some batches of lessons teach, as text."
    task.batcher, decode = Batcher(student), student.processor.tokenizer.decode
    return [decode(lesson.labels[lesson.labels >= 0]) for _ in range(batches) for lesson in task.lessons(rng)]


def test_rare_answers_are_asked_as_often_as_frequent_ones(student, rng):
    found = answers(Answer(lopsided(), open_share=0, batch_size=16), student, 20, rng)
    assert len(found) == 320 and .4 < np.mean(["Slow." in text for text in found]) < .6


def test_short_lessons_learn_the_option_and_whole_ones_the_reason_too(student, rng):
    short, whole = (answers(Answer(lopsided(), open_share=0, whole=w), student, 3, rng) for w in (0, 1))
    assert all(re.fullmatch(r"Final: (Fast|Slow)\.", text) for text in short)
    assert all(re.fullmatch(r"Final: (Fast|Slow)\.\nObject: car<\|im_end\|>", text) for text in whole)


def test_only_the_capabilities_asked_for_are_taught(pool):
    kinds = {c: {k for asked in Answer(pool, (c,)).asked.values() for k in asked} for c in ("perception", "reasoning", "planning")}
    assert kinds["perception"] == {"moving status", "important objects"} and not kinds["reasoning"] & kinds["planning"] and "behavior" in kinds["reasoning"]


@pytest.mark.parametrize(("front", "cameras"), [(0, [*range(6)]), (1, [0])])
def test_questions_about_six_pictures_may_show_the_first_alone(pool, student, rng, front, cameras):
    task = Answer(pool, ("reasoning",), open_share=0, front=front, batch_size=6)
    task.batcher = Batcher(student)
    lessons = task.lessons(rng)
    assert [lesson.cameras for lesson in lessons] == [cameras] * (6 if front else 2)


# lessons as the model reads them

@pytest.mark.parametrize("family", ["own", "another"])
def test_a_lesson_is_tokenised_as_the_batcher_does(family, request, tmp_path):
    pool, student = map(request.getfixturevalue, ("pool", "student") if family == "own" else ("wide_pool", "wide_student"))
    refs = [ImageRef(None, tmp_path / f"{c}.png") for c in range(2)]
    for c in range(2): Image.fromarray(pool.pixels[0, c]).save(refs[c].path)
    batcher, pairs = Batcher(student), [("Where?", "There.\nLeft."), ("What?", "A car.")]
    turns = tuple(Turn(*t) for t in (("user", "<image><image>Where?"), ("assistant", "There.\nLeft."), ("user", "What?"), ("assistant", "A car.")))
    record, lesson = VQARecord("q", tuple(refs), turns, None, (), "drivekd", 0), conversation(batcher, pairs, [0, 1], size=pool.size)
    encoded = batcher.encode(record)
    assert torch.equal(lesson.input_ids, encoded.input_ids) and torch.equal(lesson.labels, encoded.labels)
    with torch.no_grad():  # and the tower sees the same pictures
        found, right = learned_logits(student, [lesson], image_features(student, pool.pixels[0, :2]))
        expected = student.model(**batcher([record]).model_inputs()).logits[0, :-1][encoded.labels[1:] >= 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(right, encoded.labels[encoded.labels >= 0])


def test_choices_are_scored_by_all_words_of_the_right_option(pool, student, monkeypatch):
    kind, said = CHOICE_KINDS[0], []
    def spell(vlm, lessons, features):
        said.extend(student.processor.tokenizer.decode(lesson.labels[lesson.labels >= 0]) for lesson in lessons)
        return len(lessons) - 1
    monkeypatch.setattr("drivekd.study.curriculum._all_right", spell)
    asked = [f"Final: {q['options'][q['correct']]}" for s in pool.scenes for q in s["questions"] if q["kind"] == kind]
    assert choice_accuracy(student, pool, kind, batch_size=len(asked)) == (len(asked) - 1) / len(asked) and said == asked


# training

TASKS = {"see": lambda pool: See(pool, 4, 2), "point": lambda pool: Point(pool, 2),
         "answer": lambda pool: Answer(pool, batch_size=3), "refine": lambda pool: Refine(pool, batch_size=3)}


def interrupted(task, after):
    "The same task, except that it fails at its n-th loss."
    losses = iter([task.loss] * after)
    def loss(vlm, rng):
        if not (whole := next(losses, None)): raise KeyboardInterrupt
        return whole(vlm, rng)
    task.loss = loss
    return task


@pytest.mark.parametrize("name", TASKS)
def test_an_interrupted_training_ends_at_the_same_weights(pool, processor, student, tmp_path, name):
    straight = train(fresh(processor, student), TASKS[name](pool), 4, tmp_path / "straight", save_every=2)
    torch.manual_seed(7)  # another process starts from another random state
    with pytest.raises(KeyboardInterrupt): train(fresh(processor, student), interrupted(TASKS[name](pool), 3), 4, tmp_path / "broken", save_every=2)
    resumed = train(fresh(processor, student), TASKS[name](pool), 4, tmp_path / "broken", save_every=2)
    assert same(state(straight), state(resumed)) and not same(state(straight), state(fresh(processor, student)))


def test_the_log_of_an_interrupted_training_has_every_step_once(pool, processor, student, tmp_path):
    with pytest.raises(KeyboardInterrupt): train(fresh(processor, student), interrupted(TASKS["point"](pool), 3), 4, tmp_path, save_every=2)
    train(fresh(processor, student), TASKS["point"](pool), 4, tmp_path, save_every=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize(("name", "moves"), [("see", ("vision_tower", "projector")), ("answer", ("language_model",)), ("point", ("language_model",)), ("refine", ("vision_tower", "projector", "language_model"))])
def test_a_task_trains_what_it_says_and_nothing_else(pool, processor, student, tmp_path, name, moves):
    vlm = fresh(processor, student)
    before = state(vlm)
    train(vlm, TASKS[name](pool), 2, tmp_path)
    moved = {next(part for part in ("vision_tower", "projector", "language_model", "lm_head") if part in k) for k in changed(before, vlm.model.state_dict())}
    assert moved - {"lm_head"} == set(moves)  # the head is tied to the embeddings


def test_training_learns(pool, processor, student, tmp_path):
    train(fresh(processor, student), Point(pool, batch_size=4), 30, tmp_path, learning_rate=3e-3)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert len(losses) == 30 and np.mean(losses[-3:]) < .8 * losses[0]


class Broken:
    "A task whose loss is what it is told, times one weight."
    def __init__(self, pool, value): self.pool, self.value = pool, value
    def modules(self, vlm): return nn.ModuleList([vlm.model.lm_head])
    def loss(self, vlm, rng): return vlm.model.lm_head.weight[0, 0] * self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_harms(pool, processor, student, tmp_path, value):
    vlm = fresh(processor, student)
    before = state(vlm)
    with pytest.raises(FloatingPointError, match="finite"): train(vlm, Broken(pool, value), 3, tmp_path)
    assert same(before, state(vlm)) and not (tmp_path / "state.pt").exists()


def test_finished_stages_are_read_back_and_the_unfinished_one_goes_on(pool, processor, student, tmp_path):
    def forbidden(pool): return interrupted(TASKS["point"](pool), 0)
    first, second = (Stage(name, TASKS["point"], steps, 1e-3) for name, steps in (("one", 2), ("two", 3)))
    taught = teach(fresh(processor, student), [first, second], pool, tmp_path)
    read = teach(fresh(processor, student), [replace(first, task=forbidden), replace(second, task=forbidden)], pool, tmp_path)
    assert same(state(taught), state(read)) and {p.name for p in tmp_path.iterdir()} == {"one", "two"}
    with pytest.raises(KeyboardInterrupt): teach(fresh(processor, student), [first, replace(second, name="three", task=forbidden)], pool, tmp_path)


@pytest.mark.parametrize(("named", "change"), [
    ("start", dict(start=1)), ("steps", dict(steps=3)), ("learning_rate", dict(learning_rate=2e-3)), ("seed", dict(seed=1)), ("plain", dict(plain=.1)), ("scenes", dict(cut=3))])
def test_a_stage_of_something_else_is_refused_by_name(pool, processor, student, tmp_path, named, change):
    def begin(start=0, steps=2, learning_rate=1e-3, seed=0, plain=.3, cut=None):
        scenes = replace(pool, pixels=pool.pixels[:cut], cells=pool.cells[:cut], scenes=pool.scenes[:cut])
        return train(fresh(processor, student, start), Point(scenes, 2, plain), steps, tmp_path, learning_rate, seed)
    begun = state(begin())
    with pytest.raises(ValueError, match=rf"was begun with {named} .* \(found .*\): give the same again or remove the folder"): begin(**change)
    assert same(begun, state(begin()))
