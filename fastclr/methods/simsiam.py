"""SimSiam: predict the other view's projection, which gets no gradient; no negatives, no twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.methods.groups import Group, exclude
from fastclr.methods.options import Check, MethodOptions
from fastclr.methods.predicting import Predicting, cross_similarities


@dataclass(frozen=True, kw_only=True)
class SimSiamOptions(MethodOptions):
    """The options of SimSiam."""

    predictor_hidden: int = 512
    """Hidden width of the predictor, a bottleneck: a quarter of head_dim in the paper."""
    constant_rate: bool = True
    """Keep the predictor at the peak of the learning rate."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [("predictor_hidden", self.predictor_hidden >= 1, "at least 1")]


class SimSiam(Predicting):
    """``loss = -1/2 (cos(q(z), sg z') + cos(q(z'), sg z))``, the mean over the images; sg: without gradient.

    Source: Chen and He, Exploring Simple Siamese Representation Learning, 2021; facebookresearch/simsiam.
    """

    title = "SimSiam"
    Options = SimSiamOptions
    has_twin = False
    predictor_end = "bias"
    # the paper's setting for CIFAR-10 (appendix D): projector of 2 layers, SGD 0.03 B/256, decay 5e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_bn": True,
        "head_layers": 2,
        "head_hidden": 2048,
        "head_dim": 2048,
        "head_last_bn": "plain",
        "bn_per_view": True,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    cause = "Usual with SimSiam: no batch norm in the projector, or a rate that is too high for so small a set."
    tune = "--lr, --simsiam.predictor-hidden (a bottleneck), then the crops; it starts slowly."
    when = "A baseline without negatives and without a twin; 800 epochs on CIFAR-10."

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine between prediction and target."""
        first, second = cross_similarities(embeddings)
        mean = (first + second) / 2
        return -mean, {"positive_cosine": mean.detach()}

    def groups(self, optimizer: str) -> list[Group]:
        """Return the usual groups, and the predictor's parameters in groups of their own, at a constant rate."""
        groups = super().groups(optimizer)
        if not self.options.constant_rate:
            return groups
        own = list(self.predictor.parameters())
        known = {id(parameter) for parameter in own}
        held = [
            dataclasses.replace(group, parameters=[p for p in group.parameters if id(p) in known], constant=True)
            for group in groups
        ]
        rest = [dataclasses.replace(group, parameters=exclude(group.parameters, own)) for group in groups]
        return [*rest, *(group for group in held if group.parameters)]
