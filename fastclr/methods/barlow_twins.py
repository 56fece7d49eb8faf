"""Barlow Twins: make the cross-correlation of the two views' embeddings the identity."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.losses.gram import barlow_twins
from fastclr.methods.groups import Group
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.options import Check, ViewPairOptions
from fastclr.parallel import resolve_group


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsOptions(ViewPairOptions):
    """The options of Barlow Twins."""

    redundancy: float = 5e-3
    """Weight of the correlations between different dimensions; small embeddings want more, about 1 / head_dim."""
    bias_rate: float = 0.024
    """With LARS: rate of biases and batch norms, as a fraction of the weights'. The authors' 0.024 goes with a gradient
    that their all_reduce divides by the number of processes: 0.024 over that number is the same step."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            ("redundancy", 0 <= self.redundancy < float("inf"), "a number of at least 0"),
            ("bias_rate", 0 < self.bias_rate < float("inf"), "a positive number"),
        ]


class BarlowTwins(OneBranch):
    """``loss = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2``, C the cross-correlation of z and z' over the batch.

    Columns of z and z' have mean 0 and variance 1, over the images of all processes.

    Source: Zbontar et al., Barlow Twins, 2021; facebookresearch/barlowtwins.
    """

    title = "Barlow Twins"
    Options = BarlowTwinsOptions
    # lightly's benchmark on CIFAR-10: projector of 2 x 2048, lambda 5e-3, SGD 0.06 B/128, decay 5e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_bn": True,
        "head_layers": 2,
        "head_hidden": 2048,
        "head_dim": 2048,
        "head_last_bn": "none",
        "bn_per_view": True,
        "optimizer": "sgd",
        "lr": 0.12,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    cause = "Unusual with Barlow Twins, whose loss forbids it: look at the rate and at --barlow.redundancy."
    tune = "--head-dim (more is better), --barlow.redundancy with it, --lr."
    when = "Small batches without a twin or negatives; wants wide embeddings."

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its two terms."""
        z0, z1 = embeddings
        group = resolve_group(None) if self.gathers else None
        loss, terms = barlow_twins(z0, z1, self.options.redundancy, group=group)
        return loss, {"invariance": terms.invariance, "redundancy": terms.redundancy}

    def groups(self, optimizer: str) -> list[Group]:
        """Return the usual groups; with LARS, biases and batch norms have a rate of their own."""
        groups = super().groups(optimizer)
        if optimizer != "lars":
            return groups
        rate = self.options.bias_rate
        return [group if group.adapt else dataclasses.replace(group, rate=rate) for group in groups]
