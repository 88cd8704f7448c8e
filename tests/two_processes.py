"A run of one or of several processes: `accelerate launch --multi_gpu --num_processes N two_processes.py FOLDER PER_PROCESS RUNS`; the first keeps weights and metrics."
import json
import sys
from pathlib import Path

import torch
from test_trainer import make
from toys import samples

from drivekd.distill.sharding import whole_of

OPTIONS = dict(max_steps=4, optim="sgd", learning_rate=0.01, gradient_accumulation_steps=2, save_strategy="steps", save_steps=2,
               per_device_eval_batch_size=2)


def run(folder: Path, per_process: int, recipe: dict, **options) -> None:
    "Train, evaluate, write down what came out."
    trainer = make(folder, recipe, per_device_train_batch_size=per_process, data=samples(24), **OPTIONS | options)
    trainer.train(resume_from_checkpoint=True)
    metrics = trainer.evaluate()
    weights = whole_of(trainer.model.state_dict())
    if trainer.is_world_process_zero(): torch.save({"weights": weights, "metrics": metrics}, folder / "result")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, (recipe, options) in json.loads(sys.argv[3]).items():
        run(Path(sys.argv[1]) / name, int(sys.argv[2]), recipe, **options)
    torch.distributed.destroy_process_group()
