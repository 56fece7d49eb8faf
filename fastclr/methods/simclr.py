"""SimCLR: the two views of an image are each other's positives, and all other images in the batch are negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fastclr.data.batch import Batch
from fastclr.losses import DCLLoss, MarginTripletLoss, NTLogisticLoss, NTXentLoss, nt_xent
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.options import Check, MethodOptions, temperature_check
from fastclr.parallel import resolve_group

LossKind = Literal["nt-xent", "dcl", "nt-logistic", "margin"]


@dataclass(frozen=True, kw_only=True)
class SimCLROptions(MethodOptions):
    """The options of SimCLR."""

    temperature: float = 0.5
    """Temperature of the loss; `margin` has none."""
    learnable_temperature: bool = False
    """Train the temperature as well."""
    loss: LossKind = "nt-xent"
    """The loss: NT-Xent, DCL (no positive in the denominator), or what the paper compares with, its Tables 2 and 4."""
    normalize: bool = True
    """Scale projections to unit length; off: plain dot products."""
    margin: float = 0.8
    """Margin of the loss `margin`."""
    semi_hard: bool = False
    """With `nt-logistic` and `margin`: of the negatives less similar than the positive only the closest counts."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            temperature_check(self.temperature),
            ("loss", self.loss in get_args(LossKind), f"one of {get_args(LossKind)}"),
            ("learnable_temperature", not (self.learnable_temperature and self.loss == "margin"), "off with margin"),
            ("margin", 0 <= self.margin < float("inf"), "a number of at least 0"),
            ("semi_hard", not self.semi_hard or self.loss in ("nt-logistic", "margin"), "off with nt-xent and dcl"),
        ]


class SimCLR(OneBranch):
    """NT-Xent between z = g(f(x)) of two random views of each image, over the global batch.

    ``loss_i = log sum_{j != i} exp(s_ij) - s_ip`` with ``s_ij = <z_i, z_j> / tau``, z of unit length, p the other view.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """

    title = "SimCLR"
    Options = SimCLROptions
    cause = "Usual with SimCLR: a rate that is too high, or no warm-up in front of it."
    tune = "--simclr.temperature, --lr and --lr-scaling, the crops (--crop-scale), --batch-size."
    when = "The first choice: robust, quick to show results, and best understood; likes large batches."

    def make_criterion(self) -> nn.Module:
        """Return the loss."""
        chosen, tau = self.options, self.options.temperature
        learnable, normalize = chosen.learnable_temperature, chosen.normalize
        if chosen.loss == "dcl":
            return DCLLoss(tau, self.gathers, learnable_temperature=learnable, normalize=normalize)
        mining: Literal["none", "semi_hard"] = "semi_hard" if chosen.semi_hard else "none"
        shared = {"gather_distributed": self.gathers, "normalize": normalize}
        if chosen.loss == "nt-logistic":
            return NTLogisticLoss(tau, mining=mining, learnable_temperature=learnable, **shared)
        if chosen.loss == "margin":
            return MarginTripletLoss(chosen.margin, mining=mining, **shared)
        return NTXentLoss(tau, learnable_temperature=learnable)

    @property
    def temperature(self) -> float | Tensor:
        """The temperature, with its gradient if it is learnt."""
        found: float | Tensor = getattr(self.criterion, "temperature", self.options.temperature)
        return found

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the accuracy and entropy of picking the positive among the other views."""
        z0, z1 = embeddings
        if self.options.loss != "nt-xent":
            return self.criterion(z0, z1), partner_stats(z0, z1, self.temperature, self.gathers)
        group = resolve_group(None) if self.gathers else None
        normalize = self.options.normalize
        loss, stats = nt_xent(z0, z1, self.temperature, normalize=normalize, return_stats=True, group=group)
        return loss, {"contrastive_accuracy": stats.accuracy.mean(), "contrastive_entropy": stats.entropy.mean()}

    def scalars(self) -> dict[str, float]:
        """Return the temperature."""
        return {"temperature": float(torch.as_tensor(self.temperature).detach())}


@torch.no_grad()
def partner_stats(z0: Tensor, z1: Tensor, temperature: float | Tensor, gathers: bool) -> dict[str, Tensor]:
    """Return how often a view's partner is the most similar of all views of the batch, and the entropy of choosing it.

    Args:
        z0: ``[n, D]`` of the first view.
        z1: ``[n, D]`` of the second view.
        temperature: of the softmax over the other views.
        gathers: whether the views of all processes count.
    """
    group = resolve_group(None) if gathers else None
    tau = temperature.detach() if isinstance(temperature, Tensor) else temperature
    _, stats = nt_xent(z0.detach(), z1.detach(), tau, return_stats=True, group=group)
    return {"contrastive_accuracy": stats.accuracy.mean(), "contrastive_entropy": stats.entropy.mean()}
