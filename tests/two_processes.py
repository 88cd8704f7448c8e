"A run of one or of several processes: `torchrun --nproc-per-node N two_processes.py FOLDER PER_PROCESS RECIPES`; the first keeps weights and metrics."
import json
import sys
from pathlib import Path

import torch
from test_trainer import make, state
from toys import samples

OPTIONS = dict(max_steps=4, optim="sgd", learning_rate=0.01, gradient_accumulation_steps=2, save_strategy="steps", save_steps=2,
               per_device_eval_batch_size=2)


def run(folder: Path, per_process: int, recipe: dict, **options) -> None:
    "Train, evaluate, write down what came out."
    trainer = make(folder, recipe, per_device_train_batch_size=per_process, data=samples(24), **OPTIONS, **options)
    trainer.train(resume_from_checkpoint=True)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero(): torch.save({"weights": state(trainer), "metrics": metrics}, folder / "result")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, recipe in json.loads(sys.argv[3]).items(): run(Path(sys.argv[1]) / name, int(sys.argv[2]), recipe, ddp_backend="gloo")
    torch.distributed.destroy_process_group()
