"""The miniature driving world: what it promises to those who train on it."""
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drivekd.data import world
from drivekd.data.cameras import CAMERA_GEOMETRY, CAMERAS, parse_tags
from drivekd.data.questions import ACTIONS, CHOICE_KINDS, KINDS, action, questions, reletter, where
from drivekd.data.records import load_image, read_records
from drivekd.data.render import grid_labels, look, project, render, to_camera, view
from drivekd.data.traffic import KINDS as THING_KINDS
from drivekd.data.traffic import MOVING_STATUS, SPEEDS, STEERING, Thing, at, bend, beside, simulate, steering_word

FRAMES = 60


@pytest.fixture(scope="module")
def drawn():
    "Balanced questions of sixty frames: (scene, views, questions)."
    return [item for _, item in zip(range(FRAMES), world.generate("validation", per_frame=10))]


@pytest.fixture(scope="module")
def asked(drawn): return [q for _, _, qs in drawn for q in qs]


@pytest.fixture(scope="module")
def empty():
    "A straight road in clear daylight with nothing on it."
    scene = next(s for s in (simulate(0, i) for i in range(200)) if s.behaviour and s.behaviour[0] == "straight")
    return replace(scene, things=(), scenery=(), weather="clear", time_of_day="day")


def thing_at(drawn_item, q):
    "The thing that a single-tag question is about, found through the id picture."
    scene, views, _ = drawn_item
    tag = parse_tags(q.question)[0]
    boxes = views[tag.camera].boxes
    box = min(boxes, key=lambda b: abs(b.centre[0] - tag.x) + abs(b.centre[1] - tag.y))
    return scene.things[box.thing], box, tag


# --- traffic

def test_a_scene_depends_on_seed_and_index_only():
    before = [simulate(5, i) for i in (0, 7, 30)]
    world.simulate.cache_clear()
    from drivekd.data import traffic
    traffic._episode.cache_clear()
    after = [simulate(5, i) for i in (30, 7, 0)][::-1]
    assert before == after
    assert all(np.array_equal(a.path, b.path) for a, b in zip(before, after))
    assert simulate(5, 0) != simulate(5, 1) and simulate(5, 0) != simulate(6, 0)


def test_an_intersection_leaves_no_trace_in_later_scenes():
    from drivekd.data import traffic
    clear = lambda: (traffic._episode.cache_clear(), world.simulate.cache_clear())
    clear(); before = simulate(5, 7)
    assert traffic._episode(6, 1).scenario == "intersection"  # highway-env changes its vehicle class there
    clear()
    assert simulate(5, 7) == before


def test_another_process_makes_the_same_scene():
    code = "from drivekd.data.traffic import simulate; print(repr(simulate(5, 7)))"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == repr(simulate(5, 7))


def test_importing_the_world_loads_neither_torch_nor_the_simulator():
    code = "import sys, drivekd.data.world; print([m for m in ('torch', 'highway_env', 'gymnasium', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_things_stay_clear_of_the_ego_vehicle():
    for i in range(40):
        assert all(math.hypot(t.x, t.y) > 2.0 for t in simulate(4, i).things)


def test_every_class_of_the_vocabulary_occurs():
    scenes = [simulate(0, i) for i in range(0, 336, 2)]
    assert {t.kind for s in scenes for t in s.things} == set(THING_KINDS)
    assert {t.status for s in scenes for t in s.things} >= set(MOVING_STATUS) | {"red", "yellow", "green", "crossing", "standing"}
    assert {s.behaviour[0] for s in scenes if s.behaviour} == set(STEERING) and {s.behaviour[1] for s in scenes if s.behaviour} == set(SPEEDS)
    assert {s.weather for s in scenes} == {"clear", "overcast", "rain", "fog"} and {s.time_of_day for s in scenes} == {"day", "dusk", "night"}


@pytest.mark.parametrize("curvature, word", [(0.0, "straight"), (.016, "slightly left"), (-.016, "slightly right"), (.04, "left"), (-.04, "right"), (.026, None)])
def test_a_bent_road_is_steered_as_it_bends(curvature, word):
    path, _ = bend(np.c_[np.arange(45.0), np.zeros(45)], curvature)
    assert steering_word(path)[0] == word
    assert curvature == 0 or np.sign(path[20, 1]) == np.sign(curvature)


@pytest.mark.parametrize("curvature", [-.04, -.015, .015, .04])
def test_bending_keeps_distances_along_the_lane(curvature):
    path, _ = bend(np.c_[np.arange(45.0), np.zeros(45)], curvature)
    assert np.allclose(np.hypot(*np.diff(path, axis=0).T), 1.0, atol=.02)


@pytest.mark.parametrize("s, d", [(3.2, 0.0), (12.7, 2.0), (20.5, -3.0)])
def test_a_place_beside_a_path_is_found_again(s, d):
    path, _ = bend(np.c_[np.arange(45.0), np.zeros(45)], .02)
    assert np.allclose(beside(path, *at(path, s, d)[:2]), (s, d), atol=.15)


def test_the_rule_driver_sees_what_it_reacts_to():
    for scene in (simulate(seed, i) for seed in (0, 1) for i in range(60)):
        ahead = [t for t in scene.things if where(scene, t) == "ahead" and t.kind not in ("traffic light", "traffic sign")]
        if scene.theme == "free road": assert not [t for t in ahead if t.kind in ("car", "truck", "bus")]
        if scene.theme == "stopped leader": assert scene.things[0].status == "stopped" and scene.ego_speed == 0


# --- cameras

@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_looks_where_it_is_mounted(camera):
    yaw, fov = (math.radians(a) for a in CAMERA_GEOMETRY[camera])
    spot = lambda a: project(to_camera(np.array([[10 * math.cos(a), 10 * math.sin(a), 1.6]]), camera), camera, (320, 180))[0]
    assert np.allclose(spot(yaw), (160, 90))
    assert np.allclose([spot(yaw + fov / 2)[0], spot(yaw - fov / 2)[0]], [0, 320])  # counter-clockwise is left


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("side", [1, -1])
def test_a_thing_on_the_left_appears_on_the_left(empty, camera, side):
    a = math.radians(CAMERA_GEOMETRY[camera].yaw + 12 * side)
    scene = replace(empty, things=(Thing("traffic cone", "red", "standing", 8 * math.cos(a), 8 * math.sin(a)),))
    box, = view(scene, camera).boxes
    assert (box.centre[0] < .5) == (side == 1)


def test_a_near_thing_hides_a_far_one(empty):
    near, far = Thing("truck", "blue", "stopped", 9.0, 0.0), Thing("car", "red", "stopped", 18.0, 0.0)
    for things in ((near, far), (far, near)):
        scene = replace(empty, things=things)
        boxes = {b.thing: b for b in view(scene, "CAM_FRONT").boxes}
        assert boxes[things.index(near)].fraction > .95
        assert things.index(far) not in boxes or boxes[things.index(far)].fraction < .3
    alone = view(replace(empty, things=(far,)), "CAM_FRONT").boxes[0]
    assert alone.fraction > .95


def test_a_thing_cut_by_the_edge_is_not_fully_visible(empty):
    a = math.radians(CAMERA_GEOMETRY["CAM_FRONT"].fov / 2)
    box = view(replace(empty, things=(Thing("car", "red", "stopped", 10 * math.cos(a), 10 * math.sin(a)),)), "CAM_FRONT").boxes[0]
    assert .1 < box.fraction < .75


def test_nearer_is_larger(empty):
    widths = [view(replace(empty, things=(Thing("car", "red", "stopped", x, 0.0),)), "CAM_FRONT").boxes[0].width for x in (8.0, 12.0, 20.0)]
    assert widths == sorted(widths, reverse=True) and widths[0] > 2 * widths[2]


def amber(image, box):
    "Share of amber in the left and in the right half of a box."
    a = np.asarray(image).astype(int)
    h, w, _ = a.shape
    part = a[int(box.y0 * h):int(box.y1 * h), int(box.x0 * w):int(box.x1 * w)]
    glow = (part[..., 0] > 220) & (abs(part[..., 1] - 164) < 40) & (part[..., 2] < 70)
    return glow[:, :glow.shape[1] // 2].mean(), glow[:, glow.shape[1] // 2:].mean()


@pytest.mark.parametrize("kind", ["car", "truck", "bus"])
@pytest.mark.parametrize("heading, mirrored", [(0.0, False), (math.pi, True)])
def test_an_indicator_is_on_the_vehicles_own_side(empty, kind, heading, mirrored):
    for status, left in (("turn left", True), ("turn right", False)):
        seen = view(replace(empty, things=(Thing(kind, "blue", status, 10.0, 0.0, heading),)), "CAM_FRONT")
        on_left, on_right = amber(seen.image, seen.boxes[0])
        assert (on_left > on_right) == (left != mirrored) and max(on_left, on_right) > .03
    seen = view(replace(empty, things=(Thing(kind, "blue", "going ahead", 10.0, 0.0, heading),)), "CAM_FRONT")
    assert amber(seen.image, seen.boxes[0]) == (0, 0)


def test_statuses_can_be_told_apart_at_112_pixels(empty):
    small = {}
    for status in MOVING_STATUS:
        image, _ = render(replace(empty, things=(Thing("car", "gray", status, 8.0, 0.0),)), "CAM_FRONT")
        small[status] = np.asarray(image.resize((112, 112), Image.BICUBIC)).astype(int)
    pairs = [(a, b) for i, a in enumerate(MOVING_STATUS) for b in MOVING_STATUS[:i]]
    assert all((abs(small[a] - small[b]).max(-1) > 60).sum() >= 12 for a, b in pairs)  # pixels that differ clearly


def test_ids_name_what_is_painted(empty):
    scene = replace(empty, things=(Thing("pedestrian", "green", "standing", 7.0, 1.0), Thing("traffic cone", "red", "standing", 9.0, -2.0)))
    image, ids = render(scene, "CAM_FRONT", (256, 144))
    assert image.size == (256, 144) and ids.shape == (144, 256) and ids.dtype == np.int16 and set(np.unique(ids)) == {-1, 0, 1}
    coat = np.asarray(image)[ids == 0].mean(0)
    assert coat[1] > coat[0] and coat[1] > coat[2]


def test_grid_labels_name_the_thing_that_fills_a_cell(empty):
    scene = replace(empty, things=(Thing("bus", "red", "stopped", 9.0, 0.0),))
    ids = view(scene, "CAM_FRONT").ids
    labels = grid_labels(scene, ids)
    assert labels.shape == (8, 8) and labels[3, 3] == labels[4, 4] == 0 and labels[0, 0] == -1
    assert (grid_labels(empty, np.full((180, 320), -1)) == -1).all()


# --- questions

def test_a_tag_lies_inside_the_box_of_its_thing(drawn):
    checked = 0
    for _scene, views, qs in drawn:
        for q in qs:
            for tag in parse_tags(q.question):
                assert tag.scale == "normalised" and tag.camera in q.cameras
                assert any(b.x0 <= tag.x <= b.x1 and b.y0 <= tag.y <= b.y1 for b in views[tag.camera].boxes)
                checked += 1
    assert checked > 50


def test_moving_status_is_the_status_of_the_tagged_thing(drawn):
    checked = 0
    for item in drawn:
        for q in (q for q in item[2] if q.kind == "moving status"):
            thing, box, _ = thing_at(item, q)
            words = q.options[q.correct].lower().rstrip(".")
            assert words == thing.status and box.width >= .11 and box.fraction >= .7 and q.capability == "perception" and len(q.cameras) == 1
            checked += 1
    assert checked > 20


def test_actions_follow_the_rule_table(empty):
    ahead = lambda kind, status, color="red", d=0.0: Thing(kind, color, status, *at(empty.path, 9.0, d))
    brake, slow, steer, keep = ACTIONS
    table = [(ahead("car", "stopped"), brake), (ahead("pedestrian", "crossing"), brake), (ahead("traffic light", "red", "red", -3.2), brake), (ahead("traffic light", "yellow", "yellow", -3.2), slow),
             (ahead("traffic light", "green", "green", -3.2), keep), (ahead("bus", "turn left"), slow), (ahead("car", "going ahead"), keep), (ahead("traffic cone", "standing"), steer),
             (ahead("cyclist", "going ahead"), steer), (ahead("car", "stopped", d=4.0), keep), (ahead("pedestrian", "standing", d=-5.0), keep)]
    for thing, expected in table: assert action(empty, thing) == expected, thing


def test_behaviour_options_are_two_by_two(asked):
    found = [q for q in asked if q.kind == "behavior"]
    assert len(found) > 15
    for q in found:
        parts = [o.split(". ") for o in q.options]
        assert len(set(q.options)) == 4 and len({p[0] for p in parts}) == len({p[1] for p in parts}) == 2
        assert q.cameras == CAMERAS


def test_answers_and_letters_are_uniform(asked):
    for kind, (_, _, classes) in KINDS.items():
        counts = Counter(q.truth for q in asked if q.kind == kind)
        if classes: assert max(counts.values()) - min(counts[c] for c in classes) <= 2, (kind, counts)
    for kind in CHOICE_KINDS:
        letters = Counter(q.letter for q in asked if q.kind == kind)
        assert max(letters.values()) - min(letters[l] for l in "ABCD") <= 5, (kind, letters)


def test_a_constant_answer_scores_at_chance(drawn, asked):
    choice = [q for q in asked if q.kind in CHOICE_KINDS]
    interval = 1.96 * math.sqrt(.25 * .75 / len(choice))
    for letter in "ABCD": assert abs(sum(q.letter == letter for q in choice) / len(choice) - .25) < interval
    for kind in CHOICE_KINDS:
        some = [q for q in choice if q.kind == kind]
        frequent = Counter(q.options[q.correct] for q in some).most_common(1)[0][1]
        assert frequent / len(some) < .25 + 1.96 * math.sqrt(.25 * .75 / len(some)), kind


def test_answers_start_as_published(asked):
    for q in asked:
        if q.options: assert q.answer.startswith(f"Final: {q.letter}. {q.options[q.correct]}\n")
    starts = {"important objects": "- <c1,", "notice": "First: <c1,", "actions": "Target: <c1,", "collision": "Collision with <c1,"}
    for kind, start in starts.items(): assert all(q.answer.startswith(start) for q in asked if q.kind == kind)


def test_words_leave_out_the_letter_and_nothing_else(asked):
    for q in asked: assert q.words == (q.answer.replace(f"{q.letter}. ", "", 1) if q.options else q.answer)


def test_paraphrases_change_the_words_and_nothing_else(drawn):
    scene, views, _ = drawn[3]
    worded = [questions(scene, views, variant) for variant in range(3)]
    for a, b, c in zip(*worded):
        assert len({a.stem, b.stem, c.stem}) == 3 and a.answer == b.answer == c.answer and a.options == b.options


def test_the_vocabulary_is_small(asked):
    words = {w for q in asked for w in re.findall(r"[A-Za-z_]+|[^\sA-Za-z0-9]", q.question + " " + q.answer)}
    assert len(words) < 300


@pytest.mark.parametrize("letter", range(4))
def test_relettering_moves_the_right_option_only(asked, letter):
    for q in [q for q in asked if q.options][:20]:
        moved = reletter(q, letter)
        assert moved.correct == letter and moved.options[letter] == q.options[q.correct] and sorted(moved.options) == sorted(q.options)


# --- the world on disk

@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return world.write_world(tmp_path_factory.mktemp("worlds") / "w", frames=3, split="test", progress=False)


def test_a_written_world_is_read_back(written):
    raw, found = json.loads(written.read_text()), read_records(written, verify_images=True)
    assert len(found) == len(raw) > 5 and not found.skipped
    for record, item in zip(found, raw):
        assert record.capability == item["question_type"] and record.answer == item["messages"][1]["content"]
        assert len(record.images) == len(item["images"]) and all(f"/{i.camera}/" in p for i, p in zip(record.images, item["images"]))
    assert load_image(found[0].images[0]).size == (320, 180)


def test_a_record_regenerates_its_scene_and_picture(written):
    record = read_records(written)[0]
    scene = simulate(record.meta["seed"], record.meta["index"])
    image, _ = render(scene, record.images[0].camera)
    assert abs(np.asarray(image).astype(int) - np.asarray(load_image(record.images[0])).astype(int)).mean() < 6  # JPEG


def test_the_same_world_is_written_twice(written, tmp_path):
    again = world.write_world(tmp_path / "w", frames=3, split="test", progress=False)
    assert again.read_bytes() == written.read_bytes()
    for path in written.parent.rglob("*.jpg"): assert (again.parent / path.relative_to(written.parent)).read_bytes() == path.read_bytes()


def test_splits_and_worlds_share_no_scenario_seed():
    seeds = [world.scenario_seed(split, seed) for split in world.SPLITS for seed in range(50)]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ValueError, match="train, validation, test"): world.scenario_seed("dev")


def test_an_interrupted_world_leaves_no_folder(tmp_path, monkeypatch):
    def broken(*_): raise KeyboardInterrupt
    monkeypatch.setattr(world, "_save_views", broken)
    with pytest.raises(KeyboardInterrupt): world.write_world(tmp_path / "w", frames=2, progress=False)
    assert not (tmp_path / "w").exists()
    monkeypatch.undo()
    assert world.write_world(tmp_path / "w", frames=1, progress=False).exists()


def test_a_world_is_never_overwritten(written):
    with pytest.raises(FileExistsError, match="new folder"): world.write_world(written.parent, frames=1, progress=False)


def test_only_the_kinds_asked_for_are_written(tmp_path):
    path = world.write_world(tmp_path / "w", frames=2, kinds=("moving status",), progress=False)
    assert {r["kind"] for r in json.loads(path.read_text())} == {"moving status"}


def test_a_frame_is_cheap():
    simulate(9, 0)
    start = time.process_time()
    for i in range(10): look(simulate(9, i))
    assert (time.process_time() - start) / 10 < .6  # seconds of processor time, six times what it needs
