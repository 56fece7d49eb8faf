"""BYOL: predict what a momentum twin makes of the other view; no negatives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.methods.base import Facts
from fastclr.methods.options import Check, ModelOptions, ViewPairOptions, momentum_check
from fastclr.methods.predicting import Predicting, cross_similarities

MOST_ADAM = 0.01  # rates of SGD and LARS lie above it, usual ones of AdamW far below


@dataclass(frozen=True, kw_only=True)
class BYOLOptions(ViewPairOptions):
    """The options of BYOL."""

    momentum: float = 0.99
    """Momentum of the twin at the start; it rises to 1 along a cosine. More for long runs: 0.996 for 1000 epochs."""
    predictor_hidden: int = 1024
    """Hidden width of the predictor."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            momentum_check(self.momentum),
            ("predictor_hidden", self.predictor_hidden >= 1, "at least 1"),
        ]


class BYOL(Predicting):
    """``loss = sum over both orders of mean_i (2 - 2 cos(q(z_i), t'_i))``: the sum, not the mean, as the rates assume.

    z of the online networks, t' what the momentum twin makes of the other view, q the predictor.

    Source: Grill et al., Bootstrap Your Own Latent, 2020; deepmind-research/byol.
    """

    title = "BYOL"
    Options = BYOLOptions
    # lightly's benchmark on CIFAR-10: heads of 1024 and 256, SGD 0.06 B/128, decay 5e-4. Its loss is a quarter of this
    # one, so its step too: the rate here is made for tens of epochs, the preset's for hundreds
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_bn": True,
        "head_layers": 2,
        "head_hidden": 1024,
        "head_dim": 256,
        "head_last_bn": "none",
        "bn_per_view": True,
        "optimizer": "sgd",
        "lr": 0.12,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    evaluated = "the encoder that was trained, not its momentum twin"
    cause = "Usual with BYOL: no batch norm in the heads, a rate of SGD given to AdamW, or a twin that moves too fast."
    tune = "--byol.momentum (lower for short runs), --lr, then the crops and --byol.second-solarize-p."
    when = "Small batches, or images so alike that other images are poor negatives; give it hundreds of epochs."

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Warn of AdamW at a rate that collapses."""
        if facts.optimizer == "adamw" and facts.lr > MOST_ADAM:
            warnings.warn(
                f"BYOL collapses with AdamW at a rate made for SGD, got a peak of {facts.lr:g}: try 1e-3 or less",
                UserWarning,
                stacklevel=2,
            )

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine between prediction and target."""
        first, second = cross_similarities(embeddings)
        return 4.0 - 2.0 * (first + second), {"positive_cosine": ((first + second) / 2).detach()}
