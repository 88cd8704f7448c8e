"The bench: it times equal things, and counts what it says."
import json
from dataclasses import replace

import pytest
import torch

from drivekd.cli import main
from drivekd.distill.capabilities import mixing_rows, with_options
from drivekd.study import cost
from drivekd.study.cost import SIZES, STEPS, Bench, check_equal, compare, flops, memory_of, peak_memory, random_batch
from drivekd.study.published import PARITY, published_step

KEYS = {"speedup_online", "speedup_cached", "over_sft_cached", "floor_online", "floor_cached", "over_floor_online", "over_floor_cached",
        "memory_ratio", "sizes", "versions", "seconds", "memory_bytes", "errors", "flops", "preset", "device", "threads", "repeats"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory): return Bench(SIZES["toy"], folder=tmp_path_factory.mktemp("targets"))


def test_published_step_and_ours_agree_on_losses_and_gradient(bench):
    errors = compare(bench)
    check_equal(errors, 1e-5)
    assert set(errors) == {f"{what}_error_{kind}" for what in ("loss", "gradient") for kind in ("online", "cached")}


def test_different_results_are_not_timed():
    for bad in (1e-3, float("nan")):
        with pytest.raises(ArithmeticError, match="before they are timed"): check_equal({"gradient_error_online": bad})


def test_long_gradients_are_projected_alike(bench):
    "Weights that make followers long enough to oppose each other: both stages have work to do."
    heavy = with_options(PARITY, weights=dict.fromkeys(PARITY.terms[1:], 3e4))
    theirs = published_step(bench.student, bench.vlms, bench.batch, bench.order, heavy)
    bench.clear()
    window = cost.Window(bench.parameters, heavy)
    cost.Lesson(bench.student, bench.teachers, heavy).study(bench.batch, window, cost.static_weights(heavy))
    outcome = window.combine(key=(0,), permutation=bench.order)
    telemetry = outcome.telemetry
    assert outcome.norms == pytest.approx(theirs.norms, rel=1e-4)  # unweighted on both sides
    assert any(telemetry.fired_stage1) or any(map(any, telemetry.fired_stage2))
    for a, b in zip(theirs.gradient, window.total, strict=True):
        if a is None: assert b is None
        else: assert (a - b).norm() <= 1e-4 * a.norm().clamp_min(1e-12)


@pytest.mark.parametrize("kind", STEPS)
def test_every_kind_of_step_runs_and_only_floors_drop_their_gradient(bench, kind):
    bench.clear()
    STEPS[kind](bench)
    assert any(p.grad is not None for p in bench.parameters) == (not kind.startswith("floor"))
    bench.clear()


def test_models_are_put_back_to_fast_attention(bench):
    STEPS["published"](bench)
    bench.clear()
    for vlm in (bench.student, bench.teacher): assert {m.config._attn_implementation for m in vlm.attention_modules} == {"sdpa"}


def test_the_floor_makes_no_map(bench, monkeypatch):
    def no_map(*args, **kwargs): raise AssertionError("a map was made")
    for name in ("drivekd.distill.hooks.head_mean_attention", "drivekd.distill.fused._probabilities"): monkeypatch.setattr(name, no_map)
    STEPS["floor_online"](bench)
    with pytest.raises(AssertionError, match="a map was made"): STEPS["online"](bench)
    bench.clear()


def test_the_cached_step_never_asks_the_teacher(bench):
    STEPS["cached"](bench)
    handle = bench.teacher.model.register_forward_pre_hook(lambda *a: pytest.fail("the teacher was asked"))
    STEPS["cached"](bench)
    handle.remove(); bench.clear()


def test_the_sample_has_the_share_of_vision_it_says():
    batch = random_batch(SIZES["standard"], "cpu")
    assert batch.vision_mask.sum() == 1024 and batch.input_ids.shape == (1, 1144)
    assert (batch.labels[0] != -100).sum() == 40 and batch.labels[0, -1] != -100


def test_operations_of_the_standard_size_by_hand():
    "Teacher: 14 layers; 2·512² + 2·512·256 + 3·512·2048 weights each."
    found, t = flops(SIZES["standard"]), 1144
    assert found["teacher"] == 14 * (2 * (2 * 512**2 + 2 * 512 * 256 + 3 * 512 * 2048) * t + 2 * t**2 * 512)
    assert found["floor_online"] - found["teacher"] == found["floor_cached"] > 3 * found["student"]


def test_memory_counts_what_a_step_allocates():
    found = peak_memory(lambda: torch.ones(16, 2**20).sum())
    assert 60e6 < found < 90e6
    assert peak_memory(lambda: None) < 5e6


def test_memory_of_an_unknown_step_is_refused():
    with pytest.raises(ValueError, match="floor_online"): memory_of("magic", SIZES["toy"])


def test_the_command_prints_every_key(monkeypatch, capsys):
    monkeypatch.setattr(cost, "memory_apart", lambda kind, *a: {"published": 400, "online": 100}.get(kind, 50))
    assert main(["bench", "step", "--preset", "toy", "--tokens", "48", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS and found["memory_ratio"] == 0.25 and found["sizes"]["tokens"] == 48
    assert found["over_floor_online"] == pytest.approx(found["seconds"]["online"] / found["floor_online"])
    text = cost.as_text(found)
    assert "speedup_cached" in text and "48 tokens" in text


def test_growth_is_the_slope_of_the_logarithms():
    costs = [{"sizes": {"tokens": t}, "seconds": {"a": t**2, "b": 3 * t}, "memory_bytes": {"a": t**1.5}, "flops": {"f": 7}} for t in (300, 600, 1200)]
    found = cost.exponents(costs)
    assert found == {"seconds": {"a": pytest.approx(2), "b": pytest.approx(1)}, "memory_bytes": {"a": pytest.approx(1.5)}, "flops": {"f": pytest.approx(0)}}


def test_lengths_make_a_table_and_exponents(monkeypatch, capsys):
    def fake(preset, tokens, repeats, device):
        return {"preset": preset, "device": device, "repeats": repeats, "sizes": {"tokens": tokens}, "seconds": {"online": tokens**2 / 1e6}, "memory_bytes": {"online": tokens * 1000}, "flops": {"student": tokens * 1e9}}
    monkeypatch.setattr(cost, "step_cost", fake)
    command = ["bench", "step", "--lengths", "300", "600", "1200"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["sizes"]["tokens"] for c in found["costs"]] == [300, 600, 1200] and found["exponents"]["seconds"]["online"] == pytest.approx(2)
    assert main(command) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["seconds", "300", "600", "1200", "exponent"] in table and ["online", "0.090", "0.360", "1.440", "2.00"] in table


def test_growth_needs_two_lengths(capsys):
    with pytest.raises(SystemExit): main(["bench", "step", "--lengths", "300", "300"])
    assert "two lengths that differ, found [300, 300]" in capsys.readouterr().err


def test_measuring_memory_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert memory_of("cached", replace(SIZES["toy"], tokens=40)) >= 4096 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    "The published step keeps every map of the student: 4 layers, 4 heads, float32."
    assert cost.memory_apart("published", "toy", 1024, "cpu") > 4 * 4 * 1024**2 * 4
    with pytest.raises(RuntimeError, match="could not be measured"): cost.memory_apart("magic", "toy", 64, "cpu")


def test_mixing_of_the_planning_sample_is_the_default(): assert mixing_rows(PARITY)["planning"] == pytest.approx((0.1, 0.1, 0.8))
