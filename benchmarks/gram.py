"""Barlow Twins and VICReg, forward and backward, against lightly, pytorch-metric-learning and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_gate import gated
from fastclr.bench.loss_peers import require
from fastclr.bench.rows import Attempt, Contestant, Row, Unsuitable
from fastclr.bench.timing import Effort, contest
from fastclr.losses import BarlowTwinsLoss, VICRegLoss, gram_reference

LossFunction = Callable[[Tensor, Tensor], Tensor]
LAMBDA, WEIGHTS, EPS = 5e-3, (25.0, 25.0, 1.0), 1e-4


@dataclass(frozen=True)
class GramCase:
    """A workload of a Gram loss: N embeddings of D dimensions in each view, float32."""

    loss: Literal["barlow_twins", "vicreg"]
    rows: int
    dim: int
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name."""
        return f"{self.loss}-N{self.rows}-D{self.dim}"

    def toy(self) -> GramCase:
        """The same case with few and short rows."""
        return replace(self, rows=12, dim=20)

    def views(self) -> list[Tensor]:
        """Two noisy copies of random embeddings, as leaves."""
        generator = torch.Generator(self.device).manual_seed(0)
        base = torch.randn(self.rows, self.dim, generator=generator, device=self.device)
        noise = (torch.randn(base.shape, generator=generator, device=self.device) for _ in range(2))
        return [(base + 0.5 * each).requires_grad_() for each in noise]

    @cached_property
    def truth(self) -> tuple[float, list[Tensor]]:
        """Loss and gradients in float64, by autograd through the products of rows."""
        views = [view.detach().double().requires_grad_() for view in self.views()]
        loss = (barlow_by_rows if self.loss == "barlow_twins" else vicreg_by_rows)(*views)
        return float(loss.detach()), list(torch.autograd.grad(loss, views))

    def floor_s(self, ceilings: Ceilings) -> float:
        """Seconds of the cheaper form's products at the machine's ceiling: 8 N^2 D operations, or 6 N D^2."""
        n, d = float(self.rows), float(self.dim)
        flops = 8 * n * n * d if n < d else 6 * n * d * d
        return flops / ceilings.flops(torch.float32, "highest")

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""

        def base() -> Row:
            parameters = {"loss": self.loss, "rows": self.rows, "dim": self.dim, "device": self.device}
            return Row(suite="gram", case=self.name, provider="", status="ok", unit="rows", parameters=parameters)

        chosen = [contestant for contestant in contestants(self) if not only or contestant.name in only]
        floor = None if effort.toy else self.floor_s(ceilings)
        return contest(chosen, base, torch.device(self.device), effort, floor_s=floor)


def cases(device: torch.device) -> list[GramCase]:
    """All cases of a device, the most important first."""
    names: tuple[Literal["barlow_twins", "vicreg"], ...] = ("barlow_twins", "vicreg")
    sizes = [(256, 2048), (512, 8192)] if device.type == "cpu" else [(256, 2048), (2048, 8192), (4096, 4096)]
    return [GramCase(name, *size, device=device.type) for size in sizes for name in names]


def contestants(case: GramCase) -> list[Contestant]:
    """The contestants of a case, fastclr first."""
    packages = {"lightly": ("lightly",), "pytorch-metric-learning": ("pytorch-metric-learning",)}
    notes = {"pytorch": "the D x D matrix by its definition, eager"}
    makers: dict[str, Callable[[GramCase], LossFunction]] = {
        "fastclr": fastclr,
        "lightly": lightly,
        "pytorch-metric-learning": metric_learning,
        "pytorch": dense,
    }

    def contestant(name: str, make: Callable[[GramCase], LossFunction]) -> Contestant:
        return Contestant(name, lambda: attempt(case, make(case)), packages.get(name, ()), notes.get(name, ""))

    return [contestant(name, make) for name, make in makers.items()]


def attempt(case: GramCase, loss_of: LossFunction) -> Attempt:
    """Forward and backward of a loss on the inputs of `case`, and the gate."""
    views = case.views()
    return gated(views, lambda: loss_of(*views), lambda: case.truth, case.rows)


def barlow_by_rows(z0: Tensor, z1: Tensor) -> Tensor:
    """Barlow Twins through the products of rows, for autograd."""
    x, y = gram_reference.standardised(z0), gram_reference.standardised(z1)
    d = (x * y).mean(0)
    everything = ((x @ x.T) * (y @ y.T)).sum() / len(x) ** 2
    return (d - 1).square().sum() + LAMBDA * (everything - d.square().sum())


def vicreg_by_rows(z0: Tensor, z1: Tensor) -> Tensor:
    """VICReg through the products of rows, for autograd."""
    loss = WEIGHTS[0] * (z0 - z1).square().mean()
    for z in (z0, z1):
        x, v = z - z.mean(0), z.var(0)
        loss = loss + WEIGHTS[1] * torch.relu(1 - (v + EPS).sqrt()).mean() / 2
        everything = (x @ x.T).square().sum() / (len(x) - 1) ** 2
        loss = loss + WEIGHTS[2] * (everything - v.square().sum()) / z.shape[1]
    return loss


def dense(case: GramCase) -> LossFunction:
    """The definition, which stores the D x D matrix and what autograd keeps of it."""
    if case.loss == "barlow_twins":

        def barlow(z0: Tensor, z1: Tensor) -> Tensor:
            invariance, redundancy = gram_reference.barlow_twins_terms(z0, z1)
            return invariance + LAMBDA * redundancy

        return barlow

    def vicreg(z0: Tensor, z1: Tensor) -> Tensor:
        terms = gram_reference.vicreg_terms(z0, z1, EPS)
        return WEIGHTS[0] * terms[0] + WEIGHTS[1] * terms[1] + WEIGHTS[2] * terms[2]

    return vicreg


def fastclr(case: GramCase) -> LossFunction:
    """The modules with their defaults."""
    module: LossFunction = BarlowTwinsLoss() if case.loss == "barlow_twins" else VICRegLoss()
    return module


def lightly(case: GramCase) -> LossFunction:
    """lightly.loss.BarlowTwinsLoss and VICRegLoss."""
    require("lightly")
    from lightly import loss

    module: LossFunction = loss.BarlowTwinsLoss() if case.loss == "barlow_twins" else loss.VICRegLoss()
    return module


def metric_learning(case: GramCase) -> LossFunction:
    """VICRegLoss of pytorch-metric-learning."""
    require("pytorch_metric_learning")
    if case.loss != "vicreg":
        raise Unsuitable("has no Barlow Twins")
    from pytorch_metric_learning.losses import VICRegLoss as MetricLearningVICReg

    module = MetricLearningVICReg()
    return lambda z0, z1: module(z0, ref_emb=z1)
