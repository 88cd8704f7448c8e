"The trainer: it learns, what is frozen stays, equivalences hold, and a resumed run is the same run."
import math

import pytest
import torch
from test_agp import available
from toys import CAPABILITIES, collate, samples, tiny
from transformers import set_seed

from drivekd.data.jsonfiles import read_log
from drivekd.distill.capabilities import PRESETS, with_options
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import static_weights
from drivekd.distill.runfiles import COMPLETE, last_checkpoint
from drivekd.distill.step import Window, fold_anchors
from drivekd.distill.teachers import Teachers
from drivekd.distill.trainer import DistillationConfig, DistillationTrainer, select


def make(folder, recipe="agp", student=None, teachers=None, data=None, **options):
    "A trainer on toys."
    args = dict(max_steps=6, learning_rate=3e-3, per_device_train_batch_size=4, use_cpu=True, save_strategy="no", disable_tqdm=True,
                dataloader_pin_memory=False, logging_steps=2, max_grad_norm=0.0, optim="adamw_torch") | options
    config = DistillationConfig(output_dir=str(folder), recipe=recipe, **args)
    if teachers is None: teachers = {c: tiny(6, 4, seed=1 + i) for i, c in enumerate(CAPABILITIES)}
    return DistillationTrainer(student or tiny(), teachers, config, data or samples(), collate, eval_dataset=samples(5))


def state(trainer): return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def lines(folder):
    "Telemetry without clock and memory, which no two runs share."
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_gb")} for row in read_log(folder / "telemetry.jsonl")]


def assert_same(a, b, **tolerance):
    for name in a: torch.testing.assert_close({name: a[name]}, {name: b[name]}, **tolerance)


def test_losses_fall_trained_parameters_move_and_frozen_ones_do_not(tmp_path):
    trainer = make(tmp_path, {"preset": "agp", "weights": dict.fromkeys(CAPABILITIES, 200.0)}, max_steps=40, data=samples(4))
    before = state(trainer)
    trainer.train()
    after, record = state(trainer), lines(tmp_path)
    for term in ("ce", *CAPABILITIES): assert record[-1]["losses"][term] < record[0]["losses"][term], term
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert all(not torch.equal(before[n], after[n]) for n in before if "embed_tokens" not in n)
    assert not trainer.model.model.embed_tokens.training


def test_freeze_none_trains_everything(tmp_path):
    trainer = make(tmp_path, {"preset": "agp", "freeze": "none"}, max_steps=2)
    before = state(trainer)
    trainer.train()
    assert not torch.equal(before["model.embed_tokens.weight"], trainer.model.model.embed_tokens.weight)


def test_supervised_fine_tuning_needs_no_teacher_and_equals_a_loop_written_by_hand(tmp_path):
    trainer = make(tmp_path, "ce", teachers={}, data=samples(4), lr_scheduler_type="constant", max_steps=3)
    trainer.train()
    student, batch = tiny(), collate(samples(4))
    student.model.model.embed_tokens.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in student.model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    for _ in range(3):
        student.model(**batch.model_inputs(), labels=batch.labels).loss.backward()
        optimizer.step(); optimizer.zero_grad()
    assert_same(state(trainer), student.model.state_dict(), rtol=1e-4, atol=2e-5)  # the order of the four samples differs


@pytest.mark.parametrize("recipe", ["agp", {"preset": "agp", "anchor": "own"}, "multi_sum", "kl", "ce"])
def test_a_batch_of_four_equals_four_batches_of_one(tmp_path, recipe):
    def gradients(batch_size, accumulation):
        trainer = make(tmp_path, recipe, data=samples(4), max_steps=1, per_device_train_batch_size=batch_size,
                       gradient_accumulation_steps=accumulation, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant")
        before = state(trainer)
        trainer.train()
        return {n: before[n] - p for n, p in state(trainer).items()}
    assert_same(gradients(4, 1), gradients(1, 4), rtol=1e-4, atol=1e-5)


def test_micro_batch_scope_combines_each_micro_batch(tmp_path):
    options = dict(max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=3)
    make(tmp_path, {"preset": "agp", "scope": "micro_batch"}, **options).train()
    record = lines(tmp_path)
    assert [r["step"] for r in record] == [1, 1, 1, 2, 2, 2]
    clock = [r["seconds"] for r in read_log(tmp_path / "telemetry.jsonl")]
    assert clock == sorted(clock) and 0 < clock[0] < clock[-1]


def test_blocks_are_noted_every_so_many_steps_add_up_and_change_nothing(tmp_path):
    quiet, noted = make(tmp_path / "quiet", max_steps=4), make(tmp_path / "noted", max_steps=4, log_blocks=2)
    quiet.train(); noted.train()
    record = lines(tmp_path / "noted")
    assert [r["step"] for r in record if "gram_by_block" in r] == [1, 3]
    grams = record[0]["gram_by_block"]
    assert {"layer 1 attention", "layer 4 feed-forward", "head"} <= grams.keys()
    torch.testing.assert_close(sum(map(torch.tensor, grams.values())), torch.tensor(record[0]["gram"]), rtol=1e-5, atol=1e-9)
    assert_same(state(quiet), state(noted), rtol=0, atol=0)


def one_combination(recipe, teachers, batch):
    "Gradient of one batch under a recipe."
    student = tiny()
    window = Window(student.model.parameters(), recipe)
    Lesson(student, Teachers(teachers, recipe, 4), recipe).study(batch, window, static_weights(recipe))
    outcome = window.combine(key=(0,))
    return window.total, outcome


def test_agp_without_conflict_counting_ce_once_is_the_plain_sum():
    teachers = {c: tiny(6, 4, seed=1 + i) for i, c in enumerate(CAPABILITIES)}
    agp = with_options("agp", ce_count="once")
    for seed in range(20):
        batch = collate([s for s in samples(40) if s.capability][seed:seed + 2])
        found, outcome = one_combination(agp, teachers, batch)
        if not any(outcome.telemetry.fired_stage1): break
    assert not any(outcome.telemetry.fired_stage1), "no batch without conflict found"
    wanted, _ = one_combination(PRESETS["multi_sum"], teachers, batch)
    for a, b in zip(found, wanted, strict=True): torch.testing.assert_close(a, b)


def test_agp_with_conflict_leaves_no_follower_against_the_answers():
    teachers = {c: tiny(6, 4, seed=1 + i) for i, c in enumerate(CAPABILITIES)}
    fired = 0
    for start in range(6):
        _, outcome = one_combination(PRESETS["agp"], teachers, collate(samples(12)[start:start + 3]))
        fired += any(outcome.telemetry.fired_stage1)
        assert min(outcome.telemetry.cosines_stage1[0]) > -1e-9
    assert fired


@pytest.mark.parametrize("reweight", ["off", "published", "norm_matched"])
def test_a_resumed_run_is_bit_identical(tmp_path, reweight):
    recipe = {"preset": "agp", "reweight": reweight}
    options = dict(max_steps=6, save_strategy="steps", save_steps=3, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    whole = make(tmp_path / "a", recipe, student=tiny(dropout=0.1), **options)
    whole.train()
    record = lines(tmp_path / "a")
    resumed = make(tmp_path / "a", recipe, student=tiny(seed=9, dropout=0.1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert_same(state(whole), state(resumed), rtol=0, atol=0)
    again = lines(tmp_path / "a")
    assert [r["gram"] for r in again] == [r["gram"] for r in record] and [r["step"] for r in again] == [1, 2, 3, 4, 5, 6]
    assert whole.reweighting.weights == resumed.reweighting.weights


def test_resume_refuses_other_recipes_other_teachers_and_broken_checkpoints(tmp_path):
    options = dict(max_steps=2, save_strategy="steps", save_steps=1)
    make(tmp_path, **options).train()
    with pytest.raises(ValueError, match=r"differs in \['recipe'\]"):
        make(tmp_path, {"preset": "agp", "support": "published"}, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    with pytest.raises(ValueError, match=r"differs in \['teachers'\]"):
        others = {c: tiny(6, 4, seed=5) for c in CAPABILITIES}
        make(tmp_path, teachers=others, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    (tmp_path / "checkpoint-2" / COMPLETE).unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="interrupted while saving"):
        make(tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_hidden_signals_of_a_wider_teacher_train_and_resume_a_projection(tmp_path):
    recipe = {"preset": "hidden_penultimate"}
    data, teachers = samples(6, ("planning",)), {"planning": tiny(6, 4, seed=1)}
    options = dict(max_steps=4, save_strategy="steps", save_steps=2, per_device_train_batch_size=2)
    whole = make(tmp_path, recipe, teachers=teachers, data=data, **options)
    first = whole.lesson.projection_parameters()[0].detach().clone()
    whole.train()
    assert first.shape == (32, 16) and not torch.equal(first, whole.lesson.projection_parameters()[0])
    resumed = make(tmp_path, recipe, teachers=teachers, data=data, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(whole.lesson.projection_parameters()[0], resumed.lesson.projection_parameters()[0])
    assert_same(state(whole), state(resumed), rtol=0, atol=0)


@pytest.mark.parametrize("place", ["conflict", "stage2"])  # flat, per capability
@pytest.mark.parametrize("name", ["PCGrad", "UPGrad", "CAGrad", "AlignedMTL", "IMTLG", "MGDA", "GradVac"])
def test_conflicts_can_be_left_to_torchjd(tmp_path, name, place):
    available(f"torchjd:{name}")
    make(tmp_path, {"preset": "agp", place: f"torchjd:{name}"}, max_steps=2).train()
    for record in lines(tmp_path):
        assert record["merged"] == (["ce"] if place == "conflict" else []) + list(CAPABILITIES)
        assert all(math.isfinite(w) for w in record["weights"]) and 0 < record["ce_share"] < 1
        if place == "stage2": assert min(record["cosines_stage1"][0]) > -1e-9  # AGP's first stage is kept


@pytest.mark.parametrize("options", [{"conflict": "torchjd:GradVac"}, {"stage2": "torchjd:GradVac"}, {"conflict": "torchjd:PCD"}])
def test_a_weighting_that_remembers_resumes_bit_identically(tmp_path, options):
    recipe, saving = {"preset": "agp"} | options, dict(max_steps=4, save_strategy="steps", save_steps=2)
    available(next(iter(options.values())))
    whole = make(tmp_path, recipe, **saving)
    whole.train()
    record = lines(tmp_path)
    resumed = make(tmp_path, recipe, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(state(whole), state(resumed), rtol=0, atol=0)
    assert lines(tmp_path) == record


def test_gradient_checkpointing_changes_nothing(tmp_path):
    plain = make(tmp_path, max_steps=2, optim="sgd"); plain.train()
    checked = make(tmp_path, max_steps=2, optim="sgd", activation_checkpointing=True); checked.train()
    assert_same(state(plain), state(checked), rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_no_number_stops_with_step_term_and_sample(tmp_path):
    trainer = make(tmp_path, data=samples(4), per_device_train_batch_size=1, max_steps=8)
    def poison(module, args, output): output.logits[:, -3:] = float("nan") if trainer.state.global_step == 2 else output.logits[:, -3:]
    trainer.model.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match=r"at step 2 'ce' of sample 'q\d' is nan"): trainer.train()


def test_a_gradient_that_is_no_number_stops_with_step_term_and_samples(tmp_path):
    trainer = make(tmp_path, data=samples(4), max_steps=8)
    weight = trainer.model.model.layers[0].self_attn.q_proj.weight
    weight.register_hook(lambda grad: grad * (float("inf") if trainer.state.global_step == 1 else 1))
    with pytest.raises(FloatingPointError, match=r"At step 1, samples \['q.*'ce', 'perception'"): trainer.train()


def test_half_precision_weights_are_not_trained(tmp_path):
    student = tiny()
    student.model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="found torch.bfloat16"): make(tmp_path, student=student)


def test_teachers_alone_can_teach(tmp_path):
    trainer = make(tmp_path, {"preset": "agp", "ce_weight": 0.0}, max_steps=2)
    trainer.train()
    assert set(lines(tmp_path)[0]["losses"]) == set(CAPABILITIES)


def test_evaluation_counts_every_sample_once_and_splits_by_capability(tmp_path):
    trainer = make(tmp_path, "ce", teachers={}, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    alone = [trainer.evaluate([s])["eval_loss"] for s in samples(5)]
    assert metrics["eval_loss"] == pytest.approx(sum(alone) / 5, rel=1e-5)
    assert metrics["eval_loss_perception"] == pytest.approx((alone[0] + alone[3]) / 2, rel=1e-5)


def test_trainer_logs_the_means_of_the_telemetry(tmp_path):
    trainer = make(tmp_path, max_steps=4)
    trainer.train()
    logged = [h for h in trainer.state.log_history if "loss_ce" in h]
    record = lines(tmp_path)
    assert logged[0]["loss_ce"] == pytest.approx((record[0]["losses"]["ce"] + record[1]["losses"]["ce"]) / 2)
    assert logged[0]["loss"] == pytest.approx((record[0]["loss"] + record[1]["loss"]) / 2, rel=1e-3)


def test_select_takes_the_recipes_samples_and_names_what_is_missing():
    assert {s.capability for s in select(samples(), PRESETS["single_planning"])} == {"planning"}
    with pytest.raises(ValueError, match=r"no question for \['reasoning'\]"): select(samples(6, ("perception", "planning")), PRESETS["agp"])


def test_runs_that_would_be_silently_wrong_are_refused(tmp_path):
    for option in ("deepspeed", "fsdp", "torch_compile"):
        config = DistillationConfig(output_dir=str(tmp_path), use_cpu=True)
        setattr(config, option, "yes")
        with pytest.raises(ValueError, match=f"Distillation does not run with {option}: .*leave it out"):
            DistillationTrainer(tiny(), {c: tiny() for c in CAPABILITIES}, config, samples(), collate)


def test_own_anchors_count_as_one_ce_for_reweighting():
    assert fold_anchors({"ce:a": 1.0, "ce:b": 3.0, "a": 5.0}) == {"ce": 2.0, "a": 5.0}
    assert fold_anchors({"ce": 1.0, "a": 5.0}) == {"ce": 1.0, "a": 5.0}


def test_the_order_of_stage_two_depends_on_seed_and_step_alone(tmp_path):
    def orders(seed):
        set_seed(0)
        make(tmp_path, seed=seed, data_seed=1).train()
        return [r["permutation"] for r in lines(tmp_path)]
    assert orders(3) == orders(3) != orders(4)
