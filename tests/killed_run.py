"""A small run that is killed without warning, again and again: `python killed_run.py KILLS SEED FOLDER` prints what happened as JSON.

Every run is a fork of this process, so that 20 of them need one import; the parent chooses the moments and keeps the books."""
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from test_trainer import lines, make, state
from toys import tiny

from drivekd.distill.runfiles import SAVING, last_checkpoint

# dropout, accumulation, checkpoints within and between epochs, rotation down to one, state in the reweighting
OPTIONS = dict(max_steps=8, save_strategy="steps", save_steps=1, save_total_limit=1, gradient_accumulation_steps=2,
               per_device_train_batch_size=2, recipe={"preset": "agp", "reweight": "published"}, logging_steps=100)


def run(folder: Path) -> None:
    "Train or go on training, then write down all that a run leaves."
    torch.set_num_threads(1)
    trainer = make(folder, student=tiny(dropout=0.1), **OPTIONS)
    trainer.train(resume_from_checkpoint=True)
    torch.save([state(trainer), lines(folder)], folder / "aside")
    (folder / "aside").rename(folder / "final")


def start(folder: Path) -> int:
    "A process that runs."
    if child := os.fork(): return child
    try:
        sys.stdout = open(os.devnull, "w")
        run(folder)
    finally: os._exit(0)


def is_saving(folder: Path, since: float) -> bool:
    "Has a checkpoint been begun since then, and not been finished?"
    try: return (folder / SAVING).stat().st_mtime > since
    except FileNotFoundError: return False


def kill(child: int, folder: Path, while_saving: bool, after: float) -> bool:
    "Kill a run after some seconds, or some time after it began to write a checkpoint; was it writing one?"
    since = time.time()
    if while_saving:
        while not is_saving(folder, since) and not (folder / "final").exists(): pass
        after /= 100
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return is_saving(folder, since)


def reached(folder: Path) -> int:
    "Step of the newest complete checkpoint."
    last = last_checkpoint(folder)
    return int(last.rsplit("-", 1)[1]) if last else 0


def survive(folder: Path, kills: int, draw: random.Random, duration: float) -> tuple[int, int]:
    "Start again until the run is finished; how often it was killed, how often while saving."
    done = saving = step = 0
    while not (folder / "final").exists():
        child = start(folder)
        if done < kills:
            saving += kill(child, folder, done % 2 == 1, draw.uniform(0, duration))
            done += 1
        else: os.waitpid(child, 0)
        assert reached(folder) >= step, "a complete checkpoint was lost"
        step = reached(folder)
    return done, saving


if __name__ == "__main__":
    kills, seed, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    begin = time.monotonic()
    whole, telemetry = (survive(root / "whole", 0, random.Random(0), 0), torch.load(root / "whole" / "final"))[1]
    duration, draw, record = time.monotonic() - begin, random.Random(seed), []
    while sum(r["kills"] for r in record) < kills:
        folder = root / f"killed-{len(record)}"
        done, saving = survive(folder, kills - sum(r["kills"] for r in record), draw, duration)
        weights, rows = torch.load(folder / "final")
        record.append({"kills": done, "while_saving": saving, "same": all(torch.equal(weights[n], whole[n]) for n in whole) and rows == telemetry})
    print(json.dumps(record))
