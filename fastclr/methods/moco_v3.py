"""MoCo v3: BYOL's networks, and the other images of the batch as negatives; no queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import InfoNCELoss
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check, ViewPairOptions, momentum_check, temperature_check
from fastclr.methods.predicting import Predicting


@dataclass(frozen=True, kw_only=True)
class MoCoV3Options(ViewPairOptions):
    """The options of MoCo v3."""

    temperature: float = 0.2
    """Temperature of the loss; 1 for ResNet-50 on ImageNet."""
    momentum: float = 0.99
    """Momentum of the twin at the start; it rises to 1 along a cosine."""
    predictor_hidden: int = 1024
    """Hidden width of the predictor."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            temperature_check(self.temperature),
            momentum_check(self.momentum),
            ("predictor_hidden", self.predictor_hidden >= 1, "at least 1"),
        ]


class MoCoV3(Predicting):
    """``loss = 2 tau sum over both orders of mean_i (log sum_j exp(s_ij) - s_ii)``, ``s_ij = <p_i, t_j> / tau``.

    p the predictions of one view, t what the momentum twin makes of the other, of unit length, j over the images of all
    processes.

    Source: Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers, 2021;
    facebookresearch/moco-v3.
    """

    title = "MoCo v3"
    Options = MoCoV3Options
    flags = "moco"
    # heads of lightly's BYOL for CIFAR-10, as the networks are the same, and its SGD 0.06 B/128 with decay 5e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_bn": True,
        "head_layers": 2,
        "head_hidden": 1024,
        "head_dim": 256,
        "head_last_bn": "plain",
        "bn_per_view": True,
        "optimizer": "sgd",
        "lr": 0.12,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    evaluated = "the encoder that was trained, not its momentum twin"
    cause = "Usual with MoCo v3: a twin that moves too fast (raise --moco.momentum), or a rate that is too high."
    tune = "--moco.temperature, --moco.momentum, --lr; for a ViT --optimizer adamw and a long warm-up."
    when = "ViTs, and large batches; with ResNets a little better than SimCLR at the cost of a twin."

    def make_criterion(self) -> nn.Module:
        """Return the loss of one order."""
        return InfoNCELoss(self.options.temperature, self.gathers)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine between prediction and target."""
        p0, p1, t0, t1 = (widened(each) for each in embeddings)
        loss = 2.0 * self.options.temperature * (self.criterion(p0, t1) + self.criterion(p1, t0))
        cosine = (F.cosine_similarity(p0, t1).mean() + F.cosine_similarity(p1, t0).mean()) / 2
        return loss, {"positive_cosine": cosine.detach()}
