"""Fixed costs of fastclr: importing it, the first line of a training, and calls on tiny inputs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_peers import dense
from fastclr.bench.rows import Attempt, Contestant, Row, Spread, Unsuitable
from fastclr.bench.timing import Effort, contest
from fastclr.environment import package_versions
from fastclr.losses import nt_xent

IMPORTS = {"fastclr": "", "torchvision": "torchvision", "lightly.loss": "lightly", "kornia": "kornia"}
TIMES = 5
CHILD = """
import time
import torch
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""
# as `fastclr pretrain` starts, up to the line after which networks and images are loaded
FIRST_LINE = """
import sys, time
import torch
start = time.perf_counter()
from fastclr.cli import main
from fastclr.training import loop

def stop(*_):
    print(time.perf_counter() - start)
    sys.exit(0)

loop.check_model = stop
main(["pretrain", "--preset", "demo", "--out", "no-such-run"])
"""
STARTED = "fastclr pretrain, first line"


@dataclass(frozen=True)
class OverheadCase:
    """`import`: what comes on top of `import torch` in a fresh process; `call`: a call on tiny tensors.

    Imports are seconds until a package is imported, or until `fastclr pretrain` has said its first line.
    """

    kind: Literal["import", "call"]
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name."""
        return self.kind

    def toy(self) -> OverheadCase:
        """The same case: it is small enough."""
        return self

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""
        if self.kind == "import":
            names = [name for name in (*IMPORTS, STARTED) if not only or name in only]
            return import_rows(names, 1 if effort.toy else TIMES)

        def base() -> Row:
            parameters = {"device": self.device}
            return Row(suite="overhead", case=self.name, provider="", status="ok", parameters=parameters)

        chosen = [c for c in callers(self.device) if not only or c.name in only]
        return contest(chosen, base, torch.device(self.device), effort, memory=False)


def cases(device: torch.device) -> list[OverheadCase]:
    """All cases of a device."""
    return [OverheadCase("import"), OverheadCase("call", "cpu" if device.type == "cpu" else "cuda")]


def import_rows(names: list[str], times: int) -> list[Row]:
    """Time processes that import torch and then one package, or start a training, in turn."""
    found: dict[str, list[float]] = {
        name: [] for name in names if name == STARTED or find_spec(name.partition(".")[0]) is not None
    }
    for _ in range(times):
        for name, samples in found.items():
            program = FIRST_LINE if name == STARTED else CHILD.format(module=name)
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples.append(float(done.stdout))
    rows = []
    for name in names:
        row = Row(suite="overhead", case="import", provider=name, status="not installed")
        if name in found:
            row.status, row.n, row.work = "ok", len(found[name]), 1
            row.versions = package_versions((IMPORTS.get(name, ""),))
            row.time = Spread.of(found[name])
            if "fastclr" in found:
                row.reference = "fastclr"
                row.ratio = Spread.of([a / b for a, b in zip(found[name], found["fastclr"], strict=True)])
        rows.append(row)
    return rows


def callers(device: str) -> list[Contestant]:
    """Return calls on two rows of eight numbers, and on one image of eight pixels."""
    z0, z1 = (torch.randn(2, 8, device=device, requires_grad=True) for _ in range(2))
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8, device=device)
    ids, epochs = torch.zeros(1, dtype=torch.int64, device=device), itertools.count()

    def ready(call: Callable[[], Any]) -> Attempt:
        def check() -> None:
            call()

        return Attempt({"call": lambda _: call()}, check, 1)

    def augment() -> Attempt:
        if not SimCLRAugment.supports(torch.device(device)):
            raise Unsuitable(f"the operator is not built for {device}")
        made = SimCLRAugment(AugmentConfig.cifar(8), views=2, impl="native")
        return ready(lambda: made(image, ids, next(epochs)))

    return [
        Contestant("fastclr nt_xent", lambda: ready(lambda: nt_xent(z0, z1, 0.5)), note="forward"),
        Contestant("fastclr augment", augment, note="two views"),
        Contestant("dense loss", lambda: ready(lambda: dense(z0, z1, 0.5)), note="plain PyTorch, forward"),
        Contestant("add", lambda: ready(lambda: z0 + z1), note="the cheapest PyTorch operation"),
    ]
