"""VICReg: embeddings that agree, vary in every dimension, and correlate in none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.losses.gram import vicreg
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.options import Check, ViewPairOptions
from fastclr.parallel import resolve_group


@dataclass(frozen=True, kw_only=True)
class VICRegOptions(ViewPairOptions):
    """The options of VICReg."""

    invariance: float = 25.0
    """Weight of the squared distance between the views."""
    variance: float = 25.0
    """Weight of the hinge on the standard deviations."""
    covariance: float = 1.0
    """Weight of the covariances between dimensions."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        names = ("invariance", "variance", "covariance")
        own = [(name, 0 <= getattr(self, name) < float("inf"), "a number of at least 0") for name in names]
        return [*super().checks(), *own]


class VICReg(OneBranch):
    """``loss = 25 mean (z - z')^2 + 25 v + c`` with the variance term v and the covariance term c of both views.

    ``v = 1/2 sum_views mean_d max(0, 1 - sqrt(var_d + 1e-4))``, ``c = 1/D sum_views sum_{i != j} Cov_ij^2``, over the
    images of all processes. v is halved, as in the authors' code.

    Source: Bardes et al., VICReg, 2022; facebookresearch/vicreg.
    """

    title = "VICReg"
    Options = VICRegOptions
    # heads and rate of lightly's benchmark of Barlow Twins on CIFAR-10, whose networks the paper shares
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_bn": True,
        "head_layers": 3,
        "head_hidden": 2048,
        "head_dim": 2048,
        "head_last_bn": "none",
        "bn_per_view": True,
        "optimizer": "sgd",
        "lr": 0.12,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    cause = "Unusual with VICReg, whose variance term forbids it: raise --vicreg.variance or lower the rate."
    tune = "--lr, --head-dim, then --vicreg.invariance and --vicreg.variance together."
    when = "As Barlow Twins; also where the two views come from different networks or sensors."

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its three terms before their weights."""
        group = resolve_group(None) if self.gathers else None
        z0, z1 = embeddings
        weights = (self.options.invariance, self.options.variance, self.options.covariance)
        loss, terms = vicreg(z0, z1, *weights, group=group)
        return loss, {"invariance": terms.invariance, "variance": terms.variance, "covariance": terms.covariance}
