"""Jigsaw: tell in which order the patches of an image lie. A baseline from before contrastive learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastclr.methods.base import Views, rows_of
from fastclr.methods.options import Check
from fastclr.methods.patches import PatchOptions, cut_patches, patch_side
from fastclr.methods.pretext import Pretext


@dataclass(frozen=True, kw_only=True)
class JigsawOptions(PatchOptions):
    """The options of jigsaw."""

    grid: int = 3
    """Patches per side, 2 or 3."""
    permutations: int = 100
    """Orders that are told apart, chosen to differ in many places; at most 24 with a grid of 2."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        most = 24 if self.grid == 2 else 1000
        return [
            *super().checks(),
            ("grid", self.grid in (2, 3), "2 or 3"),
            ("permutations", 2 <= self.permutations <= most, f"2 to {most}"),
        ]


class Jigsaw(Pretext):
    """``loss = -1/P sum_s log softmax(W [z_s(1), ..., z_s(C)])_s``, the mean over the images; s: one of P orders.

    ``z_c = relu(g(f(x_c)))`` of the patch in cell c of C. All P orders of every image are told, since they share the
    encoder's work.

    Source: Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, 2016;
    heads as in facebookresearch/vissl.
    """

    title = "Jigsaw"
    Options = JigsawOptions
    orders: Tensor
    # vissl: one layer with batch norm and ReLU per patch, SGD 0.1 B/256, decay 1e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": True,
        "head_last_bn": "scale",
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
    }
    tune = "--jigsaw.grid 2 with --jigsaw.permutations 24 for small images, --jigsaw.permutations, --lr."
    when = "For comparison only; the encoder sees patches in training and whole images afterwards."

    def extend(self) -> None:
        """Add the classifier of the orders; a ValueError if the patches do not suit the encoder."""
        options, cells = self.options, self.options.grid**2
        self.side = patch_side(self.size, options.grid, options.patch, self.encoder, self.title)
        self.register_buffer("orders", far_orders(options.permutations, cells))
        self.classifier = nn.Linear(cells * self.width(), options.permutations)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean features h of the patches ``[n, F]``, and logits ``[n, P, P]``: order, then class."""
        patches = cut_patches(rows_of(views), self.options.grid, self.side)
        h = self.encoder(patches.flatten(0, 1))
        z = torch.relu(self.head(h)).unflatten(0, patches.shape[:2])
        return h.unflatten(0, patches.shape[:2]).mean(dim=1), (self.classifier(z[:, self.orders].flatten(2)),)


def far_orders(count: int, cells: int) -> Tensor:
    """Return ``[count, cells]`` permutations, each of those drawn the one farthest (Hamming) from all before it."""
    drawn = torch.rand(5000, cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64).argsort(dim=1)
    pool = torch.unique(drawn, dim=0)
    nearest, chosen = torch.full((len(pool),), math.inf), [0]
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (pool != pool[chosen[-1]]).sum(dim=1))
        chosen.append(int(nearest.argmax()))
    orders: Tensor = pool[chosen]
    return orders
