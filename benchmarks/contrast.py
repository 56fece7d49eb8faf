"""CLIP, SigLIP, SupCon and multiple negatives ranking, forward and backward, against libraries and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_gate import gated
from fastclr.bench.loss_peers import EAGER, compiled, guard_memory, require
from fastclr.bench.rows import Attempt, Contestant, Row
from fastclr.bench.timing import Effort, contest
from fastclr.losses import CLIPLoss, MultipleNegativesLoss, SigLIPLoss, SupConLoss

Kind = Literal["clip", "siglip", "sup_con", "multiple_negatives"]
LossFunction = Callable[..., Tensor]
SCALE, BIAS, TAU, CLASSES = 20.0, -10.0, 0.1, 100


@dataclass(frozen=True)
class ContrastCase:
    """A workload of a loss that compares rows, float32: N pairs, of SupCon N images in two views."""

    loss: Kind
    rows: int
    dim: int
    device: str = "cpu"
    compiles: bool = True

    @property
    def name(self) -> str:
        """The case's name."""
        return f"{self.loss}-N{self.rows}-D{self.dim}"

    def toy(self) -> ContrastCase:
        """The same case with few and short rows, without torch.compile, which takes longer than all the rest."""
        return replace(self, rows=24, dim=12, compiles=False)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the images, for SupCon."""
        generator = torch.Generator(self.device).manual_seed(1)
        return torch.randint(CLASSES, (self.rows,), generator=generator, device=self.device)

    def leaves(self) -> list[Tensor]:
        """What gets a gradient: rows, and where the loss learns them its scale and its bias."""
        generator = torch.Generator(self.device).manual_seed(0)

        def randn() -> Tensor:
            return torch.randn(self.rows, self.dim, generator=generator, device=self.device)

        # With nearer pairs p is 1 to float32's precision, and the p - 1 of a formula that subtracts is mostly rounding.
        noise = 1.0 if self.loss == "clip" else 0.5
        base = randn()
        made = [base + noise * randn() for _ in range(2)]
        if self.loss == "sup_con":
            made = [torch.stack(made, dim=1)]
        elif self.loss == "multiple_negatives":
            made.append(base + randn())
        elif self.loss == "siglip":
            made += [torch.tensor(value, device=self.device) for value in (SCALE, BIAS)]
        else:
            made.append(torch.tensor(SCALE, device=self.device))
        return [leaf.requires_grad_() for leaf in made]

    @cached_property
    def truth(self) -> tuple[float, list[Tensor]]:
        """Loss and gradients of the definition in float64."""
        leaves = [leaf.detach().double().requires_grad_() for leaf in self.leaves()]
        loss = definition(self)(*leaves)
        return float(loss.detach()), list(torch.autograd.grad(loss, leaves))

    def floor_s(self, ceilings: Ceilings) -> float:
        """Seconds of the products that a loss without the matrix needs, at the machine's ceiling.

        Similarities once forward and once backward, and a product for the gradient of either side; SigLIP, which has no
        normaliser, and SupCon, whose two sides are one, save a product.
        """
        n, d = float(self.rows), float(self.dim)
        pairs = {"clip": n * n, "siglip": n * n, "sup_con": 4 * n * n, "multiple_negatives": 2 * n * n}[self.loss]
        products = 6 if self.loss in ("siglip", "sup_con") else 8
        return products * pairs * d / ceilings.flops(torch.float32, "highest")

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""

        def base() -> Row:
            parameters = {"loss": self.loss, "rows": self.rows, "dim": self.dim, "device": self.device}
            return Row(suite="contrast", case=self.name, provider="", status="ok", unit="rows", parameters=parameters)

        chosen = [contestant for contestant in contestants(self) if not only or contestant.name in only]
        floor = None if effort.toy else self.floor_s(ceilings)
        return contest(chosen, base, torch.device(self.device), effort, floor_s=floor)


def cases(device: torch.device) -> list[ContrastCase]:
    """All cases of a device, the most important first."""
    if device.type == "cpu":
        sizes: list[tuple[Kind, int, int]] = [("clip", 4096, 128), ("clip", 4096, 512), ("sup_con", 2048, 128)]
        sizes += [("multiple_negatives", 2048, 384), ("siglip", 4096, 128)]
    else:
        sizes = [
            ("clip", 16384, 512),
            ("sup_con", 8192, 128),
            ("multiple_negatives", 8192, 768),
            ("siglip", 16384, 512),
        ]
    return [ContrastCase(*size, device=device.type) for size in sizes]


def contestants(case: ContrastCase) -> list[Contestant]:
    """fastclr, the definition, and the libraries that have the loss."""
    found: list[tuple[str, Callable[[], LossFunction], tuple[str, ...], str, float]] = [
        ("fastclr", lambda: fastclr(case), (), "", 0),
        ("pytorch", lambda: definition(case), (), EAGER, 6),
    ]
    if case.compiles:
        found.append(("pytorch-compile", lambda: compiled(definition(case)), (), "", 6))
    if case.loss in ("clip", "siglip"):
        found.append(("open_clip", lambda: open_clip(case), ("open_clip_torch",), "", 8))
    elif case.loss == "sup_con":
        found.append(("supcontrast", lambda: supcontrast(case), (), "its formula", 10))
        packages = ("pytorch-metric-learning",)
        found.append(("pytorch-metric-learning", lambda: metric_learning(case), packages, "", 14))
    else:
        packages = ("sentence-transformers",)
        found.append(("sentence-transformers", sentence_transformers, packages, "", 6))

    def contestant(
        name: str, make: Callable[[], LossFunction], packages: tuple[str, ...], note: str, matrices: float
    ) -> Contestant:
        def prepare() -> Attempt:
            loss_of = make()
            size = (2 * case.rows) ** 2 if case.loss == "sup_con" else case.rows**2
            guard_memory(case.device, matrices * 4 * size)
            return attempt(case, loss_of)

        return Contestant(name, prepare, packages, note)

    return [contestant(*entry) for entry in found]


def attempt(case: ContrastCase, loss_of: LossFunction) -> Attempt:
    """Forward and backward of a loss on the inputs of `case`, and the gate."""
    leaves = case.leaves()
    return gated(leaves, lambda: loss_of(*leaves), lambda: case.truth, case.rows)


def unit(*rows: Tensor) -> list[Tensor]:
    """Rows of unit length, as every contestant needs them."""
    return [F.normalize(each, dim=-1) for each in rows]


def definition(case: ContrastCase) -> LossFunction:
    """The loss with its matrix of similarities, as it is usually written."""
    own = torch.arange(case.rows, device=case.device)

    def clip(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        x, y = unit(x, y)
        logits = scale * x @ y.T
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        x, y = unit(x, y)
        signs = 2 * torch.eye(case.rows, dtype=x.dtype, device=x.device) - 1
        return -F.logsigmoid(signs * (scale * x @ y.T + bias)).sum() / case.rows

    def sup_con(features: Tensor) -> Tensor:
        (z,) = unit(features.flatten(0, 1))
        labels = case.labels.repeat_interleave(features.shape[1])
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_p = (z @ z.T / TAU).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0.0)
        positive = (labels[:, None] == labels) & ~itself
        return -((log_p * positive).sum(1) / positive.sum(1)).mean()

    def multiple_negatives(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        q, p, n = unit(q, p, n)
        return F.cross_entropy(SCALE * q @ torch.cat([p, n]).T, own)

    made: dict[str, LossFunction] = {"clip": clip, "siglip": siglip, "sup_con": sup_con}
    return made.get(case.loss, multiple_negatives)


def fastclr(case: ContrastCase) -> LossFunction:
    """The modules with their defaults."""
    if case.loss == "sup_con":
        module = SupConLoss(TAU)
        return lambda features: module(features, case.labels)
    if case.loss == "multiple_negatives":
        return MultipleNegativesLoss(1 / SCALE)
    return CLIPLoss() if case.loss == "clip" else SigLIPLoss()


def open_clip(case: ContrastCase) -> LossFunction:
    """ClipLoss and SigLipLoss of open_clip, on unit rows as its models make them."""
    require("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    module = ClipLoss() if case.loss == "clip" else SigLipLoss()
    return lambda x, y, *numbers: module(*unit(x, y), *numbers)


def supcontrast(case: ContrastCase) -> LossFunction:
    """The formula of SupContrast's code, with its maximum taken off and masks of floats; base_temperature is tau."""

    def loss_of(features: Tensor) -> Tensor:
        (z,) = unit(torch.cat(features.unbind(1)))
        views = features.shape[1]
        mask = (case.labels[:, None] == case.labels).float().repeat(views, views)
        others = 1 - torch.eye(len(z), device=z.device)
        mask = mask * others
        logits = z @ z.T / TAU
        logits = logits - logits.max(dim=1, keepdim=True).values.detach()
        log_p = logits - (logits.exp() * others).sum(1, keepdim=True).log()
        return -((mask * log_p).sum(1) / mask.sum(1)).mean()

    return loss_of


def metric_learning(case: ContrastCase) -> LossFunction:
    """SupConLoss of pytorch-metric-learning."""
    require("pytorch_metric_learning")
    from pytorch_metric_learning.losses import SupConLoss as MetricLearningSupCon

    module, labels = MetricLearningSupCon(temperature=TAU), case.labels.repeat_interleave(2)
    return lambda features: module(features.flatten(0, 1), labels)


def sentence_transformers() -> LossFunction:
    """MultipleNegativesRankingLoss of sentence-transformers, from embeddings: no model is called."""
    require("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    module: Any = MultipleNegativesRankingLoss(None, scale=SCALE)
    return lambda *columns: module.compute_loss_from_embeddings(list(columns), None)
