"Whatever stops a run, nothing saved is lost, and the resumed run is the run that was not stopped."
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer import assert_same, lines, make, state
from toys import samples
from transformers import TrainerCallback

from drivekd.distill.runfiles import COMPLETE, SAVING, check_checkpoint, last_checkpoint

OPTIONS = dict(max_steps=4, save_strategy="steps", save_steps=1, per_device_train_batch_size=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nothing stopped, and its folder."
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    trainer = make(folder, **OPTIONS)
    trainer.train()
    return folder, state(trainer)


def copy_of(whole, folder):
    "The same run elsewhere."
    shutil.copytree(whole[0], folder, dirs_exist_ok=True)
    return folder


def assert_resumes(folder, wanted, **options):
    "Resuming in this folder ends in these weights."
    resumed = make(folder, **OPTIONS | options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(state(resumed), wanted, rtol=0, atol=0)
    assert [r["step"] for r in lines(folder)] == [1, 2, 3, 4]


class At(TrainerCallback):
    "Does something when a step begins."
    def __init__(self, step, do): self.step, self.do = step, do

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step: self.do()


def killed(n, folder, seed=0):
    done = subprocess.run([sys.executable, Path(__file__).with_name("killed_run.py"), str(n), str(seed), str(folder)],
                          capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_at_three_moments_ends_in_the_same_bits(tmp_path):
    record = killed(3, tmp_path)
    assert sum(r["kills"] for r in record) >= 3 and all(r["same"] for r in record)


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_in_the_same_bits(tmp_path):
    record = killed(20, tmp_path, seed=1)
    assert sum(r["kills"] for r in record) >= 20 and all(r["same"] for r in record)
    assert sum(r["while_saving"] for r in record) >= 3


def test_a_finished_run_takes_no_further_step(tmp_path, whole):
    assert_resumes(copy_of(whole, tmp_path), whole[1])


def test_a_checkpoint_that_was_being_written_is_ignored_and_goes_with_the_next(tmp_path, whole):
    folder = copy_of(whole, tmp_path)
    shutil.rmtree(folder / "checkpoint-4")
    (folder / SAVING).mkdir()
    (folder / "checkpoint-3").rename(folder / SAVING / "checkpoint-3")
    (folder / SAVING / "checkpoint-3" / COMPLETE).unlink()
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    assert_resumes(folder, whole[1])
    assert not (folder / SAVING).exists()


def test_half_a_line_of_telemetry_does_not_keep_a_run_from_resuming(tmp_path, whole):
    folder = copy_of(whole, tmp_path)
    shutil.rmtree(folder / "checkpoint-4")
    path = folder / "telemetry.jsonl"
    path.write_text(path.read_text()[:-20])
    assert_resumes(folder, whole[1])


@pytest.mark.parametrize("name, how", [("model.safetensors", "changed"), ("optimizer.pt", "cut"), ("rng_state.pth", "gone"),
                                       ("drivekd.safetensors", "changed"), ("trainer_state.json", "cut")])
def test_a_corrupted_checkpoint_is_named_and_the_one_before_resumes(tmp_path, whole, name, how):
    folder = copy_of(whole, tmp_path)
    path = folder / "checkpoint-4" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone": path.unlink()
    else: path.write_bytes(content if how == "changed" else content[:-1])
    trainer = make(folder, **OPTIONS)
    before = state(trainer)
    with pytest.raises(ValueError, match=f"in .*checkpoint-4 {name} changed since: delete this folder") as error:
        trainer.train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value) and len(lines(folder)) == 4  # nothing was touched
    assert_same(state(trainer), before, rtol=0, atol=0)
    if (name, how) != ("model.safetensors", "changed"): return  # once is enough
    shutil.rmtree(folder / "checkpoint-4")
    assert_resumes(folder, whole[1])


@pytest.mark.parametrize("limit, message", [(16_000, "A checkpoint needs a place to be written; .*checkpoint-2"),
                                            (1_000, "Telemetry needs room; .*telemetry.jsonl")])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, whole, limit, message):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill = At(1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)))  # no file may grow beyond
    trainer = make(tmp_path, **OPTIONS)
    trainer.add_callback(fill)
    try:
        with pytest.raises(OSError, match=message) as error: trainer.train()
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value) and not (tmp_path / SAVING).exists()
    check_checkpoint(tmp_path / "checkpoint-1", trainer.about)
    assert_resumes(tmp_path, whole[1])


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="A run needs a folder that it may write; .* choose another"): make(tmp_path / "file" / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_before_the_first_step(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"A run needs a folder that it may write; .*\(Permission denied\)"): make(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_leaves(tmp_path, whole, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = make(tmp_path, **OPTIONS | {"save_steps": 100})
    trainer.add_callback(At(1, lambda: signal.raise_signal(number)))
    with pytest.raises(KeyboardInterrupt, match="Asked to stop after step 2. Resuming goes on from .*checkpoint-2"): trainer.train()
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert_resumes(tmp_path, whole[1])


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    trainer = make(tmp_path, **OPTIONS)
    trainer.add_callback(At(1, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)]))
    with pytest.raises(KeyboardInterrupt): trainer.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1") and trainer.state.global_step == 1


def test_a_loss_that_is_no_number_stops_after_saving_what_was_learned(tmp_path, whole):
    trainer = make(tmp_path, **OPTIONS | {"save_steps": 100})
    def poison(module, args, output): output.logits[:, -3:] = output.logits[:, -3:] * (float("nan") if trainer.state.global_step == 2 else 1)
    trainer.model.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match=r"at step 2 'ce' of sample 'q\d+' is nan.*Resuming goes on from .*checkpoint-2"): trainer.train()
    assert_resumes(tmp_path, whole[1])


def test_rotation_keeps_the_newest_and_never_counts_what_is_unfinished(tmp_path):
    make(tmp_path, **OPTIONS | {"save_total_limit": 2}).train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_small_checkpoints_hold_weights_only_and_say_so(tmp_path, whole):
    make(tmp_path, **OPTIONS | {"save_only_model": True}).train()
    size = lambda folder: sum(p.stat().st_size for p in (folder / "checkpoint-4").iterdir() if p.suffix != ".json")
    assert size(tmp_path) < size(whole[0]) / 2
    with pytest.raises(ValueError, match="holds weights only"): make(tmp_path, **OPTIONS).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("options, data", [({"learning_rate": 1e-3}, None), ({"seed": 7}, None), ({}, samples(11)), ({"bf16": True}, None)])
def test_another_setting_or_other_samples_are_another_run(whole, options, data):
    with pytest.raises(ValueError, match=f"differs in .*{next(iter(options), 'samples')}"):
        make(whole[0], data=data, **OPTIONS | options).train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))


def test_targets_may_come_from_a_store_that_rounds_nothing(tmp_path, whole):
    def resumed(dtype):
        trainer = make(tmp_path / dtype, **OPTIONS, target_cache=str(tmp_path / f"{dtype} targets"), target_dtype=dtype)
        trainer.train(resume_from_checkpoint=str(whole[0] / "checkpoint-2"))
        return trainer
    assert_same(state(resumed("float32")), whole[1], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"differs in \['targets'\]"): resumed("bfloat16")
