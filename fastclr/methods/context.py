"""Relative patch location: tell where a patch lies beside another. A baseline from before contrastive learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastclr.methods.base import Views, rows_of
from fastclr.methods.heads import build_head
from fastclr.methods.options import Check
from fastclr.methods.patches import PatchOptions, cut_patches, patch_side
from fastclr.methods.pretext import Pretext


@dataclass(frozen=True, kw_only=True)
class ContextOptions(PatchOptions):
    """The options of relative patch location."""

    hidden: int = 1024
    """Hidden width of the classifier."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [*super().checks(), ("hidden", self.hidden >= 1, "at least 1")]


class Context(Pretext):
    """``loss = -1/8 sum_k log softmax(c([z_0, z_k]))_k``, the mean over the images; z_k of neighbour k, z_0 the centre.

    The patches lie in a grid of 3 x 3; c is a classifier of two layers. All eight neighbours of every image are told.

    Source: Doersch et al., Unsupervised Visual Representation Learning by Context Prediction, 2015; open-mmlab/
    mmselfsup.
    """

    title = "Relative location"
    Options = ContextOptions
    # mmselfsup: features of both patches side by side, a hidden layer, SGD 0.2 at 512 images, decay 1e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "none",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
    }
    tune = "--context.patch (larger patches are easier), --lr."
    when = "For comparison only; the encoder sees patches in training and whole images afterwards."

    def extend(self) -> None:
        """Add the classifier of the places; a ValueError if the patches do not suit the encoder."""
        self.side = patch_side(self.size, 3, self.options.patch, self.encoder, self.title)
        self.classifier = build_head("mlp", 2 * self.width(), 8, 2, self.options.hidden, bn=False)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean features h of the patches ``[n, F]``, and logits ``[n, 8, 8]``: place, then class."""
        patches = cut_patches(rows_of(views), 3, self.side)
        h = self.encoder(patches.flatten(0, 1))
        z = self.head(h).unflatten(0, patches.shape[:2])
        around = torch.cat([z[:, :4], z[:, 5:]], dim=1)
        both = torch.cat([z[:, 4:5].expand_as(around), around], dim=2)
        return h.unflatten(0, patches.shape[:2]).mean(dim=1), (self.classifier(both),)
