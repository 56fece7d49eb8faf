"""Training beside busy processes, by how many threads there are and how idle ones wait, and each time alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import OURS, Attempt, Contestant, Row
from fastclr.bench.timing import Effort, contest
from fastclr.data import Batch, make_shapes
from fastclr.training.build import build
from fastclr.training.presets import PRESETS
from fastclr.training.step import train_step

STEPS = 4  # of a sample: about half a second
OPENMP = ("GOMP_", "OMP_")
# PR_SET_PDEATHSIG, SIGKILL: it ends with its parent however that ends, also while it is stopped
BURN = "import ctypes; ctypes.CDLL(None).prctl(1, 9); print(flush=True)\nwhile True: pass"
ALONE = ", alone"


def settings(others: int) -> dict[str, dict[str, str]]:
    """Return what processes are started with beside `others`; the first is what the fastclr command does for itself."""
    free = max(1, len(os.sched_getaffinity(0)) - others)
    turns = {"GOMP_SPINCOUNT": "10000"}
    return {
        OURS: turns | {"OMP_NUM_THREADS": str(free)},
        "few turns": turns,
        "passive": {"OMP_WAIT_POLICY": "passive"},
        "torch's default": {},
    }


class Trainer:
    """A process that trains the demo's network on its images, some steps at a request."""

    def __init__(self, settings: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "fastclr.bench.busy"],
            env=inherited | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, steps: int) -> float:
        """Take steps and return the loss of the last one."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("the process has no input")
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError("the process that trains ended; its error message is above")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


class Others:
    """Processes that keep a core busy each, when they may."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, "-c", BURN]
        self.processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
        for process in self.processes:
            if process.stdout is not None:
                process.stdout.readline()
                process.stdout.close()
        self.tell(signal.SIGSTOP)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to all."""
        for process in self.processes:
            process.send_signal(number)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let them work inside the block."""
        self.tell(signal.SIGCONT)
        try:
            yield
        finally:
            self.tell(signal.SIGSTOP)

    def close(self) -> None:
        """End them."""
        self.tell(signal.SIGKILL)
        for process in self.processes:
            process.wait()


@dataclass(frozen=True)
class BusyCase:
    """Steps of the demo's network, 256 images each, beside `others` processes that keep a core busy each."""

    others: int
    steps: int = STEPS

    @property
    def name(self) -> str:
        """The case's name."""
        return f"beside-{self.others}"

    def toy(self) -> BusyCase:
        """One step beside one process."""
        return replace(self, others=1, steps=1)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`; in a toy run the first alone."""

        def base() -> Row:
            parameters = {"others": self.others, "steps": self.steps, "batch": PRESETS["demo"].batch_size}
            return Row(suite="busy", case=self.name, provider="", status="ok", parameters=parameters, unit="images")

        names = list(settings(self.others))[: 1 if effort.toy else None]
        with ExitStack() as started:
            others = Others(self.others)
            started.callback(others.close)
            chosen = [c for name in names for c in self.pair(name, others, started) if not only or c.name in only]
            return contest(chosen, base, torch.device("cpu"), effort, memory=False)

    def pair(self, name: str, others: Others, started: ExitStack) -> list[Contestant]:
        """Return the contestants of one setting, beside the others and alone, which share a process."""
        shared: list[Trainer] = []
        chosen = settings(self.others)[name]

        def prepare(step: Callable[[], float]) -> Attempt:
            if not shared:
                shared.append(Trainer(chosen))
                started.callback(shared[0].close)

            def check() -> None:
                step()

            return Attempt({"train": lambda _: step()}, check, self.steps * PRESETS["demo"].batch_size)

        def beside() -> float:
            with others.working():
                return shared[0].train(self.steps)

        def alone() -> float:
            return shared[0].train(self.steps)

        note = " ".join(f"{key}={value}" for key, value in chosen.items())
        return [
            Contestant(name, lambda: prepare(beside), note=note),
            Contestant(name + ALONE, lambda: prepare(alone), note=note),
        ]


def cases(device: torch.device) -> list[BusyCase]:
    """All cases of a CPU; a GPU does not wait for a core."""
    return [BusyCase(1), BusyCase(2)] if device.type == "cpu" else []


def main() -> None:
    """Train as many steps as each line of the input says, and answer with the loss."""
    config = replace(PRESETS["demo"], device="cpu", knn_every=0)
    training = build(config, data=make_shapes(train=1024, test=8))
    training.method.train()
    batches: Iterator[Batch] = iter(())
    for line in sys.stdin:
        for _ in range(int(line)):
            batch = next(batches, None)
            if batch is None:
                batches = iter(training.loader.epoch(training.epoch))
                training.epoch, batch = training.epoch + 1, next(batches)
            train_step(training, batch)
        print(float(training.totals.get("loss")), flush=True)


if __name__ == "__main__":
    main()
