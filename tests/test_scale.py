"Memory is told before and after it runs out; adapters train small; checkpointing of activations is the right kind."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer import assert_same, lines, make, state
from toys import CAPABILITIES, collate, samples, tiny
from two_processes import run

from drivekd.distill.capabilities import make_recipe
from drivekd.distill.launching import launch
from drivekd.distill.lora import merge_lora
from drivekd.distill.machine import memory_estimate
from drivekd.distill.runfiles import damaged_files, last_checkpoint

LORA = {"r": 4, "lora_alpha": 8}
SAVING = dict(max_steps=4, save_strategy="steps", save_steps=2)


def test_memory_is_estimated_before_the_first_step(tmp_path, capsys):
    make(tmp_path, max_steps=1).train()
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("Memory of a step with 4 × 12 tokens: student 0.00, teachers 0.00, gradients") and "at most 0.00 GB, cpu has" in first


@pytest.mark.parametrize("how", ["cpu", "cuda"])
def test_running_out_of_memory_stops_with_numbers_and_three_ways_out_and_loses_nothing(tmp_path, how):
    def fail(module, args, output):
        if trainer.state.global_step != 2: return
        if how == "cpu": torch.empty(2**50)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    whole = make(tmp_path / "whole", max_steps=4)
    whole.train()
    trainer = make(tmp_path, **SAVING | {"save_steps": 100})
    trainer.model.register_forward_hook(fail)
    with pytest.raises(MemoryError, match="Step 2 does not fit into memory. Memory of a step with 4 × 12 tokens: .* cpu has .* GB") as error: trainer.train()
    ways = str(error.value).split("What would help: ")[1]
    assert ways.startswith("per_device_train_batch_size=2 with gradient_accumulation_steps=2 (the same gradient); activation_checkpointing=True"
                           " (the same gradient); bf16=True (in a new run). Resuming goes on from ")
    halved = make(tmp_path, **SAVING | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "activation_checkpointing": True})
    halved.train(resume_from_checkpoint=True)  # as the message says
    assert_same(state(whole), state(halved), rtol=2e-3, atol=2e-5)


def test_other_errors_are_not_mistaken_for_memory(tmp_path):
    trainer = make(tmp_path)
    def fail(module, args, output): raise RuntimeError("shapes differ")
    trainer.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="^shapes differ$"): trainer.train()


def test_reentrant_checkpointing_is_refused(tmp_path):
    trainer = make(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="Reentrant gradient checkpointing detaches"): trainer.train()


def test_lora_trains_adapters_of_the_language_model_alone_and_resumes_bit_identically(tmp_path):
    whole = make(tmp_path, lora=LORA, **SAVING)
    before = state(whole)
    whole.train()
    moved = {n for n, p in state(whole).items() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n} and len(moved) == 2 * 7 * 4
    assert lines(tmp_path)[-1]["terms"] == ["ce", *CAPABILITIES]
    resumed = make(tmp_path, student=tiny(), lora=LORA, **SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(state(whole), state(resumed), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"differs in \['lora'\]"): make(tmp_path, lora={"r": 2}, **SAVING).train(resume_from_checkpoint=True)


def test_lora_checkpoints_hold_adapters_alone(tmp_path):
    make(tmp_path, lora=LORA, **SAVING).train()
    size = sum(p.stat().st_size for p in (tmp_path / "checkpoint-4").glob("*.safetensors"))
    assert size < 4 * sum(p.numel() for p in tiny().model.parameters()) and not (tmp_path / "checkpoint-4" / "model.safetensors").exists()


def test_a_merged_model_is_a_plain_one_and_answers_the_same(tmp_path):
    student, words = tiny(), torch.arange(12)[None]
    make(tmp_path, student=student, lora=LORA, max_steps=3).train()
    student.model.eval()
    logits = student.model(words).logits
    merge_lora(student.model)
    torch.testing.assert_close(student.model(words).logits, logits, rtol=1e-4, atol=1e-5)
    assert list(student.model.state_dict()) == list(tiny().model.state_dict())
    student.model.save_pretrained(tmp_path / "plain")
    assert_same(type(student.model).from_pretrained(tmp_path / "plain").state_dict(), student.model.state_dict(), rtol=0, atol=0)


def test_a_run_with_lora_can_be_stopped_and_small_checkpoints_say_so(tmp_path):
    make(tmp_path, lora=LORA, data=samples(12), **SAVING | {"save_only_model": True}).train()
    with pytest.raises(ValueError, match="holds weights only"): make(tmp_path, lora=LORA, **SAVING).train(resume_from_checkpoint=last_checkpoint(tmp_path))


def relative(a, b):
    "Length of the difference of two sets of tensors, relative to their length."
    a, b = (torch.cat([x[n].double().flatten() for n in b]) for x in (a, b))
    return ((a - b).norm() / b.norm()).item()


AGP = {"preset": "agp", "reweight": "published", "weights": dict.fromkeys(CAPABILITIES, 200.0)}
ROUTING = {"preset": "agp", "mixing": "identity", "anchor": "own", "scope": "micro_batch"}  # terms that only one process sees
PARTS = {"shard": True}
TOGETHER = {  # name of a run -> recipe and options
    "agp": (AGP, {}), "routing": (ROUTING, {}), "agp in parts": (AGP, PARTS), "routing in parts": (ROUTING, PARTS),
    "adam in parts": (AGP, PARTS | {"optim": "adamw_torch", "max_grad_norm": 0.5}),
    "published support in parts": ({"preset": "agp", "support": "published"}, PARTS)}


def together(folder, runs):
    "Runs in two processes, as the chapter on launching says."
    launch(Path(__file__).with_name("two_processes.py"), 2, [folder, 2, json.dumps(runs)])
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "Folder of runs of two processes, by name."
    return together(tmp_path_factory.mktemp("two"), TOGETHER)


@pytest.mark.slow  # two processes import everything
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_give_the_result_of_one(tmp_path, two, name):
    recipe, options = TOGETHER[name]
    run(tmp_path, 4, recipe, **options | {"shard": False})
    alone, together = torch.load(tmp_path / "result"), torch.load(two / name / "result")
    assert relative(together["weights"], alone["weights"]) < 1e-6 < 1e-3 < relative(tiny().model.state_dict(), alone["weights"])
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
    assert lines(two / name)[0]["norms"] == pytest.approx(lines(tmp_path)[0]["norms"], rel=1e-6)
    for a, b in zip(lines(tmp_path), lines(two / name), strict=True):
        assert a["terms"] == b["terms"] and a["fired_stage1"] == b["fired_stage1"] and a["losses"] == pytest.approx(b["losses"], rel=1e-4)
    assert any(any(r["fired_stage1"]) for r in lines(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["agp", "adam in parts"])
def test_two_processes_write_one_whole_checkpoint(two, name):
    folder = two / name / "checkpoint-4"
    assert damaged_files(folder) == [] and {"rng_state_0.pth", "rng_state_1.pth", "drivekd.safetensors"} <= {p.name for p in folder.iterdir()}


@pytest.mark.slow
def test_a_run_in_parts_resumes_bit_identically_and_goes_on_in_one_process(tmp_path, two):
    for place in ("two", "one"):
        shutil.copytree(two / "adam in parts", tmp_path / place / "adam in parts")
        shutil.rmtree(tmp_path / place / "adam in parts" / "checkpoint-4")
    together(tmp_path / "two", {"adam in parts": TOGETHER["adam in parts"]})
    recipe, options = TOGETHER["adam in parts"]
    run(tmp_path / "one" / "adam in parts", 4, recipe, **options | {"shard": False})
    whole, parts, one = (torch.load(folder / "adam in parts" / "result")["weights"] for folder in (two, tmp_path / "two", tmp_path / "one"))
    assert_same(whole, parts, rtol=0, atol=0)
    assert relative(one, whole) < 1e-6


@pytest.mark.slow
def test_a_failing_process_is_reported_with_its_last_words(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import os\nassert os.environ['WORLD_SIZE'] == '2'\nif os.environ['RANK'] == '1': raise ValueError('no such road')\n")
    with pytest.raises(RuntimeError, match="One of 2 processes of .*train.py failed: .*ValueError: no such road"): launch(script, 2)


@pytest.mark.slow
def test_a_notebook_without_a_training_can_fork_and_one_with_a_training_is_told(tmp_path):
    code = """
import os
from accelerate import notebook_launcher
def train():
    import torch; torch.set_num_threads(1)
    from test_trainer import make
    os.write(1, f"world {make(FOLDER, max_steps=1).args.world_size}\\n".encode())  # at once, or two processes mix their words
from torch.distributed.elastic.utils.distributed import get_free_port
notebook_launcher(train, num_processes=2, use_port=str(get_free_port()))
train()
try: notebook_launcher(train, num_processes=2)
except ValueError as e: print(e)
""".replace("FOLDER", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout.count("world 2") == 2 and "should only be initialized inside your training function" in done.stdout


def test_fsdp_of_accelerate_is_refused_with_the_setting_that_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what `accelerate launch --use_fsdp` sets
    with pytest.raises(ValueError, match="does not run with fsdp: .* set shard=True"): make(tmp_path)


@pytest.mark.parametrize("options, reason", [({"lora": LORA}, "lora: adapters are small"), ({}, "one process: start several")])
def test_parts_are_refused_where_they_make_no_sense(tmp_path, options, reason):
    with pytest.raises(ValueError, match=f"shard=True does not go with {reason}"): make(tmp_path, shard=True, **options)


def test_memory_of_a_student_in_parts_is_a_share_and_what_is_whole_for_a_while():
    student, recipe = tiny(), make_recipe("agp")
    alone, parts = (memory_estimate(student, {}, recipe, collate(samples(2)), processes=n) for n in (1, 4))
    weights, trained = alone["student"], 4 * sum(p.numel() for p in student.model.parameters())
    assert alone["gradients"] == 5 * trained and alone["optimizer"] == 2 * trained
    assert parts["student"] == weights // 4 + weights and parts["gradients"] == 5 * trained // 4 + trained and parts["optimizer"] == trained // 2
