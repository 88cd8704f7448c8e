"The pre-study: sums say what all pairs say, intervals cover, a layer stands out only if it does, stored studies are drawn as they are."
import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from drivekd.study.layers import best_layer, layer_list, verdict
from drivekd.study.pairs import BlockMeans, PairSums, blocks_of, resamples, spread, unit
from drivekd.study.prestudy import BINS, LAYOUTS, Look, Sums, curves_of, in_order, stretches
from drivekd.workbench.prestudy_explorer import PrestudyExplorer, checked_study, read_studies

NAMES = ("perception", "reasoning", "planning")


def toys(n=120, layers=3, width=6):
    "Questions about forty frames, with made-up features."
    rng = np.random.default_rng(0)
    records = [SimpleNamespace(id=str(i), frame=f"f{i % 40}", capability=NAMES[i % 3], images=[SimpleNamespace(path=f"p{i % 40}{'b' * (i % 2)}")]) for i in range(n)]
    vectors = np.eye(1, width)[0] + rng.normal(size=(n, layers, width)) * np.linspace(.1, .5, layers)[:, None]
    looks = [Look(np.full(layers, .9), np.full(layers + 1, .3), v, np.abs(v), np.full(BINS, .5), "grid") for v in vectors]
    return records, looks


@pytest.fixture(scope="module")
def summed():
    records, looks = toys()
    dealt, k = blocks_of(records)
    sums = Sums(3, 3, k)
    for i in in_order(records, dealt): sums.add(looks[i], records[i], dealt[i])
    sums.close()
    return records, looks, dealt, sums


def all_pairs(looks, feature, chosen):
    "Mean cosine of some pairs, one after another."
    return np.mean([(unit(getattr(looks[i], feature)) * unit(getattr(looks[j], feature))).sum(1) for i, j in chosen], 0)


@pytest.mark.parametrize("feature", ["attention", "hidden"])
def test_sums_say_what_all_pairs_say(summed, feature):
    records, looks, dealt, sums = summed
    found = {(c.analysis, c.feature, c.group): c for c in curves_of(sums, 3, range(3), "top2")}
    pairs = list(combinations(range(len(records)), 2))
    apart = [(i, j) for i, j in pairs if dealt[i] != dealt[j]]
    alike = [(i, j) for i, j in apart if records[i].capability == records[j].capability == "planning"]
    mixed = [(i, j) for i, j in apart if (records[i].capability == "planning") != (records[j].capability == "planning")]
    same = [(i, j) for i, j in pairs if records[i].images[0].path == records[j].images[0].path]
    for key, chosen, turn in ((("intra", feature, "planning"), alike, 0), (("inter", feature, "planning"), mixed, 0), (("dispersion", feature, "samples"), apart, 1), (("dispersion", feature, "variants"), same, 1)):
        expected = all_pairs(looks, feature, chosen)
        assert found[key].value == pytest.approx(np.where(turn, 1 - expected, expected), abs=1e-5)


def test_what_is_remembered_does_not_grow(summed):
    records, looks, dealt, sums = summed
    before = sums.nbytes
    for i in in_order(records, dealt): sums.add(looks[i], records[i], dealt[i])
    assert sums.nbytes == before


def test_rare_layouts_are_left_out_and_counted():
    records, looks = toys(LAYOUTS + 3)
    sums = Sums(3, 3, 5)
    for i, (r, look) in enumerate(zip(records, looks)): sums.add(Look(**{**vars(look), "layout": f"layout {i}"}), r, 0)
    assert sums.left_out == 3 and sums.samples == LAYOUTS + 3


def test_questions_about_the_same_pictures_follow_each_other():
    records, _ = toys()
    paths = [records[i].images[0].path for i in in_order(records, blocks_of(records)[0])]
    assert len([1 for a, b in zip(paths, paths[1:]) if a != b]) == len(set(paths)) - 1


def test_a_frame_is_never_in_two_blocks():
    records, _ = toys()
    dealt, k = blocks_of(records)
    assert k == 20 and len({(r.frame, b) for r, b in zip(records, dealt)}) == 40


def test_intervals_hold_the_truth():
    rng, held = np.random.default_rng(0), 0
    def world(frames): return np.eye(1, 4)[0] + .3 * rng.normal(size=(frames, 1, 4)) + .3 * rng.normal(size=(frames, 3, 4))
    direction = unit(world(50_000)).mean((0, 1))
    for _ in range(100):
        sums = PairSums(1, 4, 20)
        for n, frame in enumerate(world(40)):
            for v in frame: sums.add(n % 20, v[None])
        [(_, low, high)] = spread(sums.parts(), resamples(20, 200))
        held += low <= direction @ direction <= high
    assert held >= 85


def test_too_few_frames_give_no_interval():
    means = BlockMeans(1, 4)
    for k in range(4): means.add(k, np.array([float(k)]))
    [(value, low, high)] = spread(means.parts(), resamples(4))
    assert value == 1.5 and np.isnan(low) and np.isnan(high)


def test_a_layer_stands_out_only_where_the_noise_allows_it():
    rng, curve = np.random.default_rng(1), np.array([.9, .95, .91])
    clear, unclear = (best_layer(np.vstack([curve, curve + s * rng.normal(size=(500, 3))])) for s in (.003, .1))
    assert clear.stands_out and clear.place == 1 and not unclear.stands_out and unclear.candidates == (0, 1, 2)
    assert "No layer stands out" in verdict(unclear, range(3)) and layer_list([0, 1, 4]) == "1–2, 5"


@pytest.mark.parametrize("n", [1, 3, 10, 23])
def test_every_answer_fills_every_tenth(n):
    parts = stretches(n)
    assert parts.sum(1) == pytest.approx(np.ones(BINS)) and parts.sum(0) == pytest.approx(np.full(n, BINS / n))


# --- stored studies

HOSTILE = "</script><img src=x onerror=alert(1)>"


def stored(name="planning"):
    line = {"analysis": "intra", "feature": "attention", "group": name, "x": [1, 2], "value": [.5, None], "low": [.4, None], "high": [.6, None], "count": 9}
    return {"model": name, "layers": 2, "samples": 9, "frames": 3, "curves": [line], "advice": [], "notes": [name]}


def test_hostile_names_stay_text():
    page = PrestudyExplorer({HOSTILE: stored(HOSTILE)}).page()
    assert "<img src=x" not in page and page.count("</script>") == 3


@pytest.mark.parametrize("change", [{"layers": "2"}, {"curves": {}}, {"curves": [{"analysis": "intra"}]}, {"curves": [stored()["curves"][0] | {"value": [float("nan"), 1]}]}])
def test_what_cannot_be_drawn_is_refused(change):
    with pytest.raises(ValueError, match="cannot be drawn"): checked_study("m", stored() | change)


def test_a_result_and_a_shipped_file_open_alike(tmp_path):
    for name, content in (("result.json", {"metrics": {"studies": {"m": stored()}}}), ("shipped.json", {"studies": {"m": stored()}})): (tmp_path / name).write_text(json.dumps(content))
    assert list(read_studies(tmp_path / "result.json", tmp_path / "shipped.json")) == ["m", "m (2)"]
