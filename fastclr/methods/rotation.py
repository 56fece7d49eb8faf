"""Rotation: tell by which right angle an image was turned. A baseline from before contrastive learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastclr.methods.base import Views, rows_of
from fastclr.methods.pretext import OneViewOptions, Pretext


@dataclass(frozen=True, kw_only=True)
class RotationOptions(OneViewOptions):
    """Rotation has no options of its own."""


class Rotation(Pretext):
    """``loss = -1/4 sum_k log softmax(W z_k)_k``, the mean over the images; z_k of the view turned by 90 k degrees.

    All four turns of every view are in the batch, as in the authors' code.

    Source: Gidaris et al., Unsupervised Representation Learning by Predicting Image Rotations, 2018; gidariss/RotNet.
    """

    title = "Rotation"
    Options = RotationOptions
    # RotNet on CIFAR-10: a linear classifier on the features, SGD 0.1 at 128 images, decay 5e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "none",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "optimizer": "sgd",
        "lr": 0.2,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    tune = "--lr, then the crops; it needs images that have an up and a down."
    when = "For comparison only; its features are best before the encoder's last stage."

    def extend(self) -> None:
        """Add the classifier of the four turns."""
        self.classifier = nn.Linear(self.width(), 4)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of the upright views ``[n, F]``, and logits ``[n, 4, 4]``: turn, then class."""
        images = rows_of(views)
        h = self.encoder(torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(4)]))
        logits = self.classifier(self.head(h)).unflatten(0, (4, len(images))).transpose(0, 1)
        return h[: len(images)], (logits,)
