"Driving: the same seed is the same road, answers move the car as said, and no outcome is counted twice or invented."
import json
import shutil
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_runs import play

from drivekd.data.questions import ACTIONS
from drivekd.data.traffic import Thing
from drivekd.models.loading import load_vlm
from drivekd.runs.drives import agreement_rows, driving_rows, reply_rows, shots, students_in, telling, told_apart, yardsticks_of
from drivekd.runs.parameters import RunError
from drivekd.runs.runner import project_root
from drivekd.study import closed_loop, driving
from drivekd.study.answerlog import AnswerLog
from drivekd.study.closed_loop import (
    MEASURES,
    YARDSTICKS,
    Driver,
    Frame,
    comfort,
    drive_all,
    episode_key,
    model_driver,
    paired,
    rank_correlation,
    read,
    spearman,
    summary,
)
from drivekd.study.driving import (
    BRAKE,
    KEEP,
    SLOW,
    STEER,
    Settings,
    action_of,
    advance,
    as_record,
    light,
    question,
    room,
    scene_of,
    start,
    to_ego,
    truth,
)
from drivekd.workbench.film import Shot, animation, strip

BRIEF = Settings(seconds=2)
STUDENT = project_root() / "data" / "miniature" / "student"


def says(answer, key="test"): return Driver(key, key, lambda scenes: [answer] * len(scenes))


@pytest.fixture(scope="module")
def road():
    "A drive whose first theme is a stopped car."
    drive = start(11)
    assert drive.staged.theme == "stopped leader"
    return drive


def test_the_same_seed_is_the_same_road_and_another_seed_another():
    def told(seed):
        drive = start(seed)
        advance(drive, KEEP)
        return [(t.kind, t.color, round(t.x, 6), round(t.y, 6)) for t in scene_of(drive).things]
    assert told(3) == told(3) != told(4)


def test_all_drivers_meet_the_same_surroundings_at_the_start():
    mine, expert = scene_of(start(2)), scene_of(start(2, expert=True))
    assert mine.things == expert.things and mine.weather == expert.weather


def test_every_answer_has_an_action_and_an_unreadable_one_leads_to_idle():
    sides = {"LANE_LEFT": True, "LANE_RIGHT": True}
    assert [action_of(a, 2, sides) for a in (*ACTIONS, None)] == ["SLOWER", "SLOWER", "LANE_LEFT", "IDLE", "IDLE"]
    assert action_of(SLOW, 1, sides) == "IDLE" and action_of(BRAKE, 1, sides) == "SLOWER"
    assert action_of(STEER, 2, {}) == "SLOWER" and action_of(KEEP, 0, {}) == "FASTER"


def test_braking_comes_to_a_stop_and_keeping_on_reaches_cruising_speed_again():
    drive = start(4, Settings(seconds=30))
    drive.staged, drive.rest = None, 1e9  # a free road
    for _ in range(8): advance(drive, BRAKE)
    standing = drive.ego.speed
    for _ in range(8): advance(drive, KEEP)
    assert abs(standing) < .1 and abs(drive.ego.speed - drive.settings.cruise) < .2


def test_who_never_brakes_hits_the_stopped_car_and_who_brakes_does_not():
    (bold,), (careful,) = (drive_all(d, [11], Settings(seconds=5), progress=False) for d in (YARDSTICKS["constant"], YARDSTICKS["truth"]))
    assert bold["struck"] == "stopped leader" and bold["seconds"] < 5 and careful["struck"] == "" and careful["seconds"] == 5


def test_what_is_drawn_long_can_be_hit_along_its_length(road):
    for vehicle, thing in road.looks.items(): assert vehicle.LENGTH == thing.length and vehicle.WIDTH == thing.width


def test_distances_along_and_across_the_road_survive_a_bend():
    ego, points = np.array([5., 2., 0.]), np.array([[5., 2.], [5., 6.]])
    assert np.allclose(to_ego(points, ego, .04)[0], [[0, 0], [0, 4]], atol=.05)
    assert np.allclose(to_ego(np.array([[15., 2.]]), np.array([5., 2., np.pi / 2]), 1e-9)[0], [[0, -10]], atol=1e-3)  # looking left, the road ahead is on the right


def test_the_true_answer_is_the_most_urgent_one_within_sight(road):
    scene = scene_of(road)
    at = lambda *things: truth(replace(scene, things=things, path=np.c_[np.arange(40.), np.zeros(40)]))
    stopped, cone = Thing("car", "red", "stopped", 9., 0.), Thing("traffic cone", "red", "standing", 6., 0.)
    assert at() == KEEP and at(cone) == STEER and at(cone, stopped) == BRAKE
    assert at(replace(stopped, x=25.)) == at(replace(stopped, y=4.)) == at(replace(stopped, status="going ahead")) == KEEP
    assert [light("yellow light", t, 6) for t in (0, 3, 6)] == ["yellow", "red", "green"]


def test_the_question_is_that_of_the_examination_and_its_options_move(road, tmp_path):
    scene = scene_of(road)
    record = as_record(scene, tmp_path, (64, 36))
    assert len(record.images) == 6 and all(i.path.is_file() for i in record.images) and record.meta["truth"] == truth(scene)
    assert sorted(record.meta["options"]) == sorted(ACTIONS) and "safe actions" in record.question
    assert len({question(replace(scene, index=i)).options for i in range(8)}) > 3


def test_a_letter_means_the_option_that_was_asked_with_it(road):
    scene = scene_of(road)
    assert [read(f"{letter}.", scene) for letter in "ABCD"] == list(question(scene).options) and read("who knows", scene) is None


def test_there_is_no_room_beside_another_vehicle():
    drive = next(d for d in map(start, range(20)) if len(room(d)) == 2)
    drive.road.vehicles = [drive.ego]
    assert all(room(drive).values())
    name, (a, b, i) = next(iter(driving._side_lanes(drive).items()))
    lane = drive.road.network.get_lane((a, b, i))
    other = type(drive.ego)(drive.road, lane.position(drive.ego.position[0] - lane.start[0] + 4, 0))
    drive.road.vehicles.append(other)
    assert not room(drive)[name] and list(room(drive))[-1] == name


def test_finished_episodes_are_not_driven_again_and_a_half_written_one_is(tmp_path):
    log = AnswerLog(tmp_path / "episodes.jsonl")
    first = drive_all(says(KEEP), (1, 2), BRIEF, log, progress=False)
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text(lines[0] + lines[1][:20])  # killed while writing
    asked = []
    driver = Driver("test", "test", lambda scenes: asked.append([s.seed for s in scenes]) or [KEEP] * len(scenes))
    again = drive_all(driver, (1, 2), BRIEF, AnswerLog(log.path), progress=False)
    driven = {seed for seeds in asked for seed in seeds}
    assert len(driven) == 1 and [{**o, "thinking": 0} for o in again] == [{**o, "thinking": 0} for o in first]


def test_an_episode_is_known_by_driver_seed_and_settings():
    keys = {episode_key(says(KEEP, d), s, road) for d in "ab" for s in (1, 2) for road in (BRIEF, replace(BRIEF, cruise=5.))}
    assert len(keys) == 8 and episode_key(says(KEEP, "a"), 1, BRIEF) in keys


def test_a_driver_is_its_weights_and_its_settings():
    vlm = load_vlm(STUDENT)
    known = model_driver("student", vlm).key
    assert model_driver("renamed", vlm).key == known != model_driver("student", vlm, max_new_tokens=3).key
    vlm.model.generation_config.do_sample = not vlm.model.generation_config.do_sample
    assert model_driver("student", vlm).key != known


def test_another_reader_of_choices_asks_for_another_drive(monkeypatch, tmp_path):
    before, changed = episode_key(says(KEEP, "a"), 1, BRIEF), tmp_path / "choices.py"
    changed.write_text("def read_choice(reply, options): return None\n")
    spec = spec_from_file_location("choices", changed)
    monkeypatch.setattr(closed_loop, "choices", module_from_spec(spec))
    assert episode_key(says(KEEP, "a"), 1, BRIEF) != before


@pytest.mark.parametrize("driver, road", [("random", BRIEF), ("student_ce", Settings(seconds=2))], ids=["random", "a batch of a model"])
def test_outcomes_do_not_depend_on_how_many_episodes_step_together(driver, road):
    asked = YARDSTICKS.get(driver) or model_driver(driver, load_vlm(STUDENT.with_name(driver)), road)
    one, many = (drive_all(asked, (5, 6, 7), road, at_once=n, progress=False) for n in (1, 3))
    assert [{**o, "thinking": 0} for o in one] == [{**o, "thinking": 0} for o in many] and (driver == "random" or one[0]["unread"] < 4)


@pytest.mark.parametrize("part", ["comfort", "_guess", "read", "answers"])
def test_an_episode_is_driven_again_when_what_decides_it_has_changed(monkeypatch, part):
    before = closed_loop.episode_key(YARDSTICKS["random"], 1, BRIEF)
    monkeypatch.setattr(closed_loop, part, lambda *_: None)
    assert closed_loop.episode_key(YARDSTICKS["random"], 1, BRIEF) != before


def test_a_model_at_the_wheel_is_asked_in_batches_and_its_unreadable_replies_are_counted(monkeypatch):
    sizes, real = [], closed_loop.answers
    monkeypatch.setattr(closed_loop, "answers", lambda vlm, records, *a, **k: sizes.append(len(records)) or real(vlm, records, *a, **k))
    road = Settings(seconds=1)
    rows = drive_all(model_driver("student", load_vlm(STUDENT), road, 4), (1, 2), road, progress=False)
    assert sizes == [2, 2] and [o["unread"] for o in rows] == [2, 2] and [o["decisions"] for o in rows] == [2, 2]
    straight_on = drive_all(YARDSTICKS["constant"], (1, 2), road, progress=False)
    assert [o["metres"] for o in rows] == [o["metres"] for o in straight_on]  # IDLE keeps going


def test_comfort_is_zero_when_steady_and_known_when_braking():
    assert comfort([(4., 0., True)] * 4) == (0, 0)
    acceleration, jerk = comfort([(v, 0., True) for v in (4., 3.8, 3.6, 3.4)])
    assert np.isclose(acceleration, 2) and abs(jerk) < 1e-9


def outcome(seed, collision, metres, unread=0):
    return {"seed": seed, "collision": collision, "struck": "traffic" if collision else "", "seconds": 6. if collision else 12., "metres": metres, "acceleration": 1., "jerk": 2., "off_road": 0.,
            "red_lights": 0, "decisions": 24, "unread": unread, "agreed": 12, "thinking": 1.2}


def test_measures_have_intervals_and_differences_are_paired_by_seed():
    bold, careful = [outcome(i, i < 8, 30. + i) for i in range(10)], [outcome(i, i < 2, 28. + i) for i in range(10)]
    found, difference = summary(bold), paired(bold, careful)
    assert found["collisions"].low < .8 == found["collisions"].estimate and found["seconds without collision"].estimate == 7.2
    assert difference["collisions"].lost == 6 and difference["collisions"].high < 0 and np.allclose(difference["metres"][:3], -2)  # no noise is left between the same roads
    with pytest.raises(ValueError, match="same seeds"): paired(bold, careful[::-1])


def test_rank_correlation_asks_only_for_the_order_and_says_when_it_cannot_know():
    x = [.1, .4, .5, .9, .95]
    assert np.isclose(spearman(x, np.exp(x)), 1) and np.isclose(spearman(x, [5, 4, 3, 2, 1]), -1)
    assert np.isclose(spearman([1, 1, 2, 3], [1, 1, 2, 3]), 1) and np.isnan(spearman(x, [1] * 5))
    exact = rank_correlation(list(zip(x, x)))
    assert exact.low == exact.high == 1 or exact.low > .99
    assert np.isnan(rank_correlation(list(zip(x, x))[:3]).low)
    assert np.isnan(rank_correlation([(.3, 15.)] * 5 + [(.9, 40.)]).low), "one outlier among ties"


def test_models_that_cannot_be_read_are_also_left_out_of_the_correlation():
    drivers = {f"m{i}": [outcome(j, j < 9 - i, 30., 24 if i < 2 else 0) for j in range(10)] for i in range(6)}
    _, rows = agreement_rows(drivers, {name: (i, 10) for i, name in enumerate(drivers)})
    assert [r[1] for r in rows] == [6, 4] and "1.00" in rows[0][2]


def test_names_of_models_are_escaped_in_tables():
    from drivekd.runs.report import table
    page = table(*driving_rows({"<script>alert(1)</script>": [outcome(i, False, 30.) for i in range(3)]}))
    assert "<script>" not in page


def test_the_road_and_the_replies_are_two_tables_that_together_show_every_measure():
    outcomes = {"not asked": [{**outcome(i, False, 30.), "thinking": 0, "agreed": 0} for i in range(3)], "model": [outcome(i, False, 30., 6) for i in range(3)]}
    (road, drivers), (replies, asked) = driving_rows(outcomes), reply_rows(outcomes, {"model": (1, 4)})
    assert all(any(cell.startswith(name) for cell in road + replies) for name in ("collisions", *MEASURES)) and len(road) < 10
    assert [row[0] for row in drivers] == list(outcomes) and [row[0] for row in asked] == ["model"] and "25" in asked[0][-1]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), unique=True))
def test_names_tell_paths_apart_and_are_no_longer_than_they_must_be(paths):
    named, parts = told_apart(paths), [path.split("/") for path in paths]
    assert sorted(named.values()) == sorted(paths) and all(f"/{path}".endswith(f"/{name}") for name, path in named.items())
    depth = max((name.count("/") for name in named), default=0)
    assert not depth or len({tuple(mine[-depth:]) for mine in parts}) < len(parts)


def test_students_are_found_only_when_finished(tmp_path):
    for name in ("a", "b"): (tmp_path / name / "checkpoints" / "ce").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "ce" / "taught.json").write_text("{}")
    assert list(students_in(f"{tmp_path}/*")) == ["a: ce"] and students_in("") == {}
    assert list(students_in(f"{tmp_path}/b* {tmp_path}/a*")) == ["a: ce"]
    shutil.copytree(tmp_path / "a", tmp_path / "other" / "a")
    assert list(students_in(f"{tmp_path}/a {tmp_path}/other/a")) == [f"{tmp_path.name}/a: ce", "other/a: ce"]
    with pytest.raises(RunError, match="none"): students_in(f"{tmp_path}/b*")
    with pytest.raises(RunError, match="choose among"): yardsticks_of("pilot")


def test_a_film_keeps_its_size_and_shows_where_the_answer_turned():
    frames = [Frame(i / 2, 4., "free road", Image.new("RGB", (64, 36), (i, 0, 0)), np.eye(4), KEEP if i < 3 else None, KEEP) for i in range(6)]
    assert [f.seconds for f in telling(frames)] == [0, 1.5] and [s.truth for s in shots(telling(frames))] == ["", KEEP]
    film = animation(shots(frames), most=30_000)
    assert len(film) <= 30_000 and strip([Shot(f.picture, None, "", "") for f in frames], columns=3).width == 3 * 244 - 4


@pytest.mark.slow
def test_the_run_writes_table_film_and_result(tmp_path, monkeypatch):
    play("drive", tmp_path, monkeypatch, models=str(STUDENT), yardsticks="constant truth", episodes=4, seconds=2., questions=4, drives=str(tmp_path / "drives"))
    result = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert result["student"]["unreadable"][0] == 100 and result["true answers"]["episodes"] == 4
    assert "student at the wheel" in (tmp_path / "report.html").read_text() and [p.stat().st_size <= 300_000 for p in tmp_path.glob("*.gif")] == [True]
