"""Fixed costs of fastclr: importing it, and calling its operators on tiny inputs."""

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


@dataclass(frozen=True)
class OverheadCase:
    """`import`: seconds that an import adds to `import torch` in a fresh process; `call`: a call on tiny tensors."""

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
            return import_rows([name for name in IMPORTS if not only or name in only], 1 if effort.toy else TIMES)

        def base() -> Row:
            parameters = {"device": self.device}
            return Row(suite="overhead", case=self.name, provider="", status="ok", parameters=parameters)

        chosen = [c for c in callers(self.device) if not only or c.name in only]
        return contest(chosen, base, torch.device(self.device), effort, memory=False)


def cases(device: torch.device) -> list[OverheadCase]:
    """All cases of a device."""
    return [OverheadCase("import"), OverheadCase("call", "cpu" if device.type == "cpu" else "cuda")]


def import_rows(names: list[str], times: int) -> list[Row]:
    """Time processes that import torch and then one package, in turn."""
    found: dict[str, list[float]] = {name: [] for name in names if find_spec(name.partition(".")[0]) is not None}
    for _ in range(times):
        for name, samples in found.items():
            command = [sys.executable, "-c", CHILD.format(module=name)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples.append(float(done.stdout))
    rows = []
    for name in names:
        row = Row(suite="overhead", case="import", provider=name, status="not installed")
        if name in found:
            row.status, row.versions, row.n, row.work = "ok", package_versions((IMPORTS[name],)), len(found[name]), 1
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
