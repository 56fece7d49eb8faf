"""SupCon: all images of a class are each other's positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fastclr.data.batch import Batch
from fastclr.losses import SupConLoss
from fastclr.methods.base import Facts
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.options import Check, MethodOptions, ModelOptions, temperature_check

Form = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True)
class SupConOptions(MethodOptions):
    """The options of SupCon."""

    temperature: float = 0.1
    """Temperature of the loss."""
    form: Form = "out"
    """`out`: the mean over the positives outside of the logarithm, the paper's choice; `in`: inside of it."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            temperature_check(self.temperature),
            ("form", self.form in get_args(Form), f"one of {get_args(Form)}"),
        ]


class SupCon(OneBranch):
    """``loss_i = log sum_{a != i} exp(s_ia) - mean_{p in P(i)} s_ip``, P(i) all other views of the class of i.

    ``s_ij = <z_i, z_j> / tau``, z of unit length, over the images of all processes. An image without a label has only
    its other view as a positive.

    Source: Khosla et al., Supervised Contrastive Learning, 2020.
    """

    title = "SupCon"
    uses_labels = True
    Options = SupConOptions
    # the paper's SGD 0.5 at 1024 images, times the 0.1 / 0.07 by which its code multiplies the loss; decay 1e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_layers": 2,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "optimizer": "sgd",
        "lr": 0.18,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
    }
    cause = "Usual with SupCon: a rate that is too high, or a single class."
    tune = "--head-bn (short runs begin slowly without), --lr, --supcon.temperature, --batch-size (some of each class)."
    when = "Labels for all or most images, and features that transfer better than those of a plain classifier."

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Raise a ValueError without labels."""
        if facts.labelled == 0 or facts.classes < 2:
            raise ValueError(
                f"SupCon needs labels of at least 2 classes, got {facts.labelled} labelled images of {facts.classes} "
                "classes; without labels it is SimCLR: --method simclr"
            )

    def make_criterion(self) -> nn.Module:
        """Return the loss."""
        return SupConLoss(self.options.temperature, self.gathers, form=self.options.form)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss."""
        z = torch.stack(list(embeddings), dim=1)
        return self.criterion(z, batch.labels.to(z.device)), {}
