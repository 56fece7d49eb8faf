"""Kill a run repeatedly with SIGKILL, resume it each time, and compare the result with an undisturbed run.

Usage: python tests/training/kill_run.py WORK PICTURES [--kills N] [--seed S]
       WORK gets two runs, `whole` and `killed`; PICTURES is a small folder of images.

Every attempt is a forked process, so that imports are paid for once. It is killed either by this process after a random
time, or by itself in the middle of the n-th write, or just before the n-th fsync, rename or deletion of a file.
The status is 0 if the weights, the optimiser, the generators, the log and the encoder's file end up bit-identical.
"""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_run import TINY

import fastclr.files
import fastclr.training.checkpoint
import fastclr.training.metrics
from fastclr.training.checkpoint import Checkpoint, load_latest
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run

KINDS = ("write", "fsync", "replace", "unlink")
TIMES = {
    "train/images_per_s",
    "time/train_s",
    "time/first_step_s",
    "time/processor_s",
    "memory/peak_bytes",
    "seconds",
}  # all that may differ between two runs


class Operations:
    """Counts a process's file operations, and kills it at the n-th operation of one kind."""

    def __init__(self, kind: str | None = None, n: int = -1) -> None:
        self.done: Counter[str] = Counter()
        self.kind, self.n = kind, n
        self.lock = threading.Lock()

    def is_due(self, kind: str) -> bool:
        with self.lock:
            self.done[kind] += 1
            return kind == self.kind and self.done[kind] > self.n

    def install(self) -> None:
        """Intercept every write, fsync, rename and deletion of this process."""
        for kind in KINDS[1:]:
            setattr(os, kind, self.before(kind, getattr(os, kind)))
        for module in (fastclr.files, fastclr.training.checkpoint, fastclr.training.metrics):
            module.open = self.open  # type: ignore[attr-defined]

    def open(self, *arguments: Any, **options: Any) -> WatchedFile:
        return WatchedFile(builtins.open(*arguments, **options), self)

    def before(self, kind: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self.is_due(kind):
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return watched


class WatchedFile:
    """A file; if the process is to die in a write, half of the write reaches the disk."""

    def __init__(self, file: Any, operations: Operations) -> None:
        self.file, self.operations = file, operations

    def write(self, data: Any) -> int:
        if self.operations.is_due("write"):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def attempt(folder: Path, config: PretrainConfig, operations: Operations, seconds: float | None = None) -> int:
    """Start or resume the run in a process, and return its exit status; a signal is negative."""
    child = os.fork()
    if child == 0:
        try:
            operations.install()
            pretrain_in(folder, config, resume=(folder / "config.json").exists())
            (folder.parent / "operations.json").write_text(json.dumps(operations.done))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def latest(folder: Path) -> Checkpoint | None:
    """Load the newest checkpoint, which no kill may have damaged."""

    def fail(warning: str) -> None:
        raise RuntimeError(warning)

    return load_latest(folder / "checkpoints", fail)


def differences(left: Path, right: Path) -> list[str]:
    """Return the differences between two runs, compared bit by bit."""
    found = []
    ours, theirs = latest(left), latest(right)
    for field in dataclasses.fields(Checkpoint):
        if field.name not in TIMES and not equal(getattr(ours, field.name), getattr(theirs, field.name)):
            found.append(f"{field.name} of the last checkpoint")
    logs = [
        [{k: v for k, v in record.items() if k not in TIMES} for record in Run.open(folder).metrics.read()]
        for folder in (left, right)
    ]
    if logs[0] != logs[1]:
        found.append("metrics.jsonl")
    if (left / "encoder.safetensors").read_bytes() != (right / "encoder.safetensors").read_bytes():
        found.append("encoder.safetensors")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (left, right)]
    if names[0] != names[1]:
        found.append(f"files: {names[0]} and {names[1]}")
    return found


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # a run that is long enough to be killed so often
    epochs = max(3, options.kills // 5)
    config = dataclasses.replace(TINY, data=str(options.pictures), epochs=epochs, checkpoint_every=1)
    whole, killed = options.work / "whole", options.work / "killed"
    options.work.mkdir(parents=True, exist_ok=True)
    clock = time.monotonic()
    if attempt(whole, config, Operations()) != 0:
        return 1
    took = time.monotonic() - clock
    counts = json.loads((options.work / "operations.json").read_text())
    print(f"undisturbed: {took:.1f} s, {counts}", flush=True)

    rng = random.Random(options.seed)
    share = 4 / (options.kills + 6)  # of the whole run, at most; half of that in the mean
    killed_in: Counter[str] = Counter()
    reached = -1
    for number in range(options.kills):
        kind = (*KINDS, "time")[number % (1 + len(KINDS))]
        if kind == "time":
            seconds = rng.uniform(0, 1 + took * share)
            status = attempt(killed, config, Operations(), seconds)
            where = f"after {seconds:.2f} s"
        else:
            n = rng.randrange(max(1, round(counts[kind] * share)))
            status = attempt(killed, config, Operations(kind, n))
            where = f"at {kind} {n}"
        if status not in (0, -signal.SIGKILL):
            return 1
        killed_in[kind] += status != 0
        checkpoint = latest(killed)
        step = checkpoint.step if checkpoint else -1
        print(f"{'killed' if status else 'finished'} {where}; the last checkpoint is of step {step}", flush=True)
        if step < reached:
            print(f"lost: step {reached} had been saved", flush=True)
            return 1
        reached = step
    if attempt(killed, config, Operations()) != 0:
        return 1
    found = differences(killed, whole)
    print(f"{killed_in.total()} kills {dict(killed_in)}: {'; '.join(found) or 'bit-identical'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
