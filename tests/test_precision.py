"Half precision computes, float32 learns and adds up; what is no number stops the run."
import pytest
import torch
from test_trainer import assert_same, lines, make, state
from toys import CAPABILITIES, collate, samples, tiny

from drivekd.distill.capabilities import PRESETS
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import static_weights
from drivekd.distill.step import Window
from drivekd.distill.teachers import Teachers

HALVES = (torch.bfloat16, torch.float16)


def losses(name, dtype, batch):
    "Mean losses of a preset on a batch, computed in some precision."
    recipe, student = PRESETS[name], tiny()
    teachers = Teachers({c: tiny(6, 2, seed=1 + i) for i, c in enumerate(CAPABILITIES)}, recipe, 4)
    found = Lesson(student, teachers, recipe).study(batch, Window(student.model.parameters(), recipe), static_weights(recipe),
                                                    autocast=lambda: torch.autocast("cpu", dtype, enabled=dtype != torch.float32))
    assert all(loss.dtype == torch.float32 for loss in found.values())
    return {term: loss.mean().item() for term, loss in found.items()}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["agp", "kl", "hidden_mid", "cosine_reasoning"])
def test_losses_in_half_precision_are_within_one_percent(name, dtype):
    batch = collate(samples(8, PRESETS[name].train_on or CAPABILITIES))
    assert losses(name, dtype, batch) == pytest.approx(losses(name, torch.float32, batch), rel=0.01)


def test_sums_over_more_pairs_than_float16_can_count_are_within_one_percent():
    batch = collate(samples(1, ("reasoning",), length=400))  # 80 200 pairs, and float16 ends at 65 504
    assert losses("single_reasoning", torch.float16, batch) == pytest.approx(losses("single_reasoning", torch.float32, batch), rel=0.01)


def test_under_bf16_weights_gradients_and_optimizer_stay_float32(tmp_path):
    trainer = make(tmp_path, max_steps=2, bf16=True)
    seen = set()
    trainer.model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    trainer.model.model.layers[0].mlp.down_proj.weight.register_hook(lambda grad: seen.add(grad.dtype))
    trainer.train()
    assert seen == {torch.bfloat16, torch.float32}  # activations, gradients
    kept = [*trainer.model.parameters(), *(x for s in trainer.optimizer.state.values() for x in s.values())]
    assert {x.dtype for x in kept} == {torch.float32}


def small_steps(folder, **options):
    "How many weights a learning rate of 1e-5 moves."
    trainer = make(folder, max_steps=1, learning_rate=1e-5, lr_scheduler_type="constant", **options)
    before = state(trainer)
    trainer.train()
    return torch.cat([(p != before[n]).flatten() for n, p in state(trainer).items() if "proj.weight" in n]).float().mean()


def test_small_steps_move_float32_masters_that_bfloat16_weights_would_round_away(tmp_path):
    assert small_steps(tmp_path, bf16=True) > 0.99
    weights = torch.cat([p.flatten() for n, p in tiny().model.state_dict().items() if "proj.weight" in n]).bfloat16()
    assert (weights - 1e-5 * torch.ones_like(weights) != weights).float().mean() < 0.2


def scaled(folder, scale, most=2.0**20, **options):
    "A trainer whose losses are scaled as in fp16 on a GPU; above `most` the gradient of one weight overflows."
    trainer = make(folder, optim="sgd", **options)
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    weight = trainer.model.model.layers[2].self_attn.q_proj.weight
    weight.register_hook(lambda grad: grad * (float("inf") if scaler.get_scale() > most else 1))
    trainer.train()
    return trainer


@pytest.mark.parametrize("options", [{}, {"recipe": {"preset": "agp", "scope": "micro_batch", "reweight": "norm_matched"},
                                         "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}])
def test_loss_scaling_changes_neither_weights_nor_telemetry(tmp_path, options):
    plain = make(tmp_path / "a", optim="sgd", **options)
    plain.train()
    assert_same(state(plain), state(scaled(tmp_path / "b", 2.0**13, **options)), rtol=1e-5, atol=1e-6)
    for a, b in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert a["norms"] == pytest.approx(b["norms"], rel=1e-4) and a["ratios"] == pytest.approx(b["ratios"], rel=1e-4)


@pytest.mark.parametrize("scope", ["window", "micro_batch"])
def test_an_overflow_skips_the_step_and_lowers_the_scale(tmp_path, scope):
    options = {"recipe": {"preset": "agp", "scope": scope}, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert_same(state(scaled(tmp_path / "a", 2.0**10, 2.0**9, max_steps=1, **options)), tiny().model.state_dict(), rtol=0, atol=0)
    trainer = scaled(tmp_path / "b", 2.0**12, 2.0**10, max_steps=5, **options)
    assert sorted({r["step"] for r in lines(tmp_path / "b")}) == [3, 4, 5] and trainer.accelerator.scaler.get_scale() == 2.0**10
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_an_overflow_of_the_first_micro_batch_leaves_nothing_of_the_others(tmp_path):
    options = {"recipe": {"preset": "agp", "scope": "micro_batch"}, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainer, calls = make(tmp_path, optim="sgd", **options), []
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    weight, study = trainer.model.model.layers[2].self_attn.q_proj.weight, trainer.lesson.study
    def recorded(*args, **kwargs):
        calls.append(None)  # the hook below counts passes
        calls[-1] = study(*args, **kwargs)
        return calls[-1]
    trainer.lesson.study = recorded
    weight.register_hook(lambda grad: grad * (float("inf") if len(calls) == 1 else 1))
    trainer.train()
    assert len(calls) == 4 and scaler.get_scale() < 2.0**4 and {r["step"] for r in lines(tmp_path)} == {2}
    assert [r["losses"]["ce"] for r in lines(tmp_path)] == pytest.approx([c["ce"].mean().item() for c in calls[2:]], rel=1e-5)


def test_a_gradient_that_is_no_number_at_any_scale_stops_the_run(tmp_path):
    trainer = make(tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.model.model.layers[0].self_attn.q_proj.weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(FloatingPointError, match=r"At step 2, samples \['q.*Gradients must be finite"): trainer.train()
