"""CPC: tell which patch of the batch lies some rows further, from the rows before it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import InfoNCELoss
from fastclr.methods.base import Views, rows_of
from fastclr.methods.encoders import batch_norms
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check, temperature_check
from fastclr.methods.patches import overlapping_patches, overlapping_side
from fastclr.methods.pretext import OneView, OneViewOptions

TURNS = (0, 2, 1, 3)  # quarter turns after which a direction runs downwards


@dataclass(frozen=True, kw_only=True)
class CPCOptions(OneViewOptions):
    """The options of CPC."""

    grid: int = 7
    """Patches per side, which overlap by half."""
    skip: int = 1
    """Rows below that are not told: the next one overlaps."""
    steps: int = 3
    """Rows that are told, those after."""
    directions: int = 4
    """1: downwards, as in the first version; 2: upwards too; 4: and to both sides."""
    context: int = 256
    """Channels of the network that sums up the rows before."""
    depth: int = 3
    """Its blocks, each of which sees one row more."""
    temperature: float = 10.0
    """What predictions times patches are divided by."""
    normalize: bool = False
    """Compare unit vectors, which want a temperature near 0.1."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("grid", 3 <= self.grid <= 64, "3 to 64"),
            ("skip", self.skip >= 0, "at least 0"),
            ("steps", 1 <= self.steps < self.grid - self.skip, "1 to grid - skip - 1"),
            ("directions", self.directions in (1, 2, 4), "1, 2 or 4"),
            ("context", self.context >= 1, "at least 1"),
            ("depth", 1 <= self.depth <= 64, "1 to 64"),
            temperature_check(self.temperature),
        ]


class CPC(OneView):
    """``loss = -mean log softmax_j(<W_k c_uv, z_j> / tau)_(u+k, v)``, over images, u, v, directions and steps k.

    ``z_uv = g(f(x_uv))`` of patch (u, v), c_uv what a convolutional network makes of the rows up to u, j all patches of
    the batch, of all processes, that lie in rows which step k can reach.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018; four directions and
    layer normalisation: Henaff et al., Data-Efficient Image Recognition with CPC, 2020.
    """

    title = "CPC"
    Options = CPCOptions
    # Lightning Bolts, cpc_module.py: patches of 8 px in a grid of 7 x 7 to 64 values, dot products x 0.1, Adam 2e-4
    recipe: ClassVar[dict[str, Any]] = {
        "norm": "layer",
        "head": "linear",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 64,
        "head_bn": False,
        "optimizer": "adamw",
        "lr": 2e-4,
        "lr_scaling": "none",
        "weight_decay": 1e-6,
    }
    cause = "Usual with CPC: a rate that is too high, or batch norm, which tells of other patches."
    tune = "--cpc.steps and --cpc.skip (nearer rows are easier), --cpc.temperature, --lr; keep --norm layer."
    when = "To see where contrastive learning comes from; it sees patches in training and whole images afterwards."

    def make_criterion(self) -> nn.Module:
        """Return the loss of one step in one direction; the patches of all processes count."""
        return InfoNCELoss(self.options.temperature, self.gathers, normalize=self.options.normalize)

    def extend(self) -> None:
        """Add the networks of every direction; a ValueError if the patches do not suit the encoder."""
        chosen, dim = self.options, self.width()
        self.side = overlapping_side(self.size, chosen.grid, self.encoder, self.title)
        if batch_norms(self.encoder) or batch_norms(self.head):
            warnings.warn(
                "batch norm can leak: it sees the patches that are to be told beside those before them. Take --norm "
                "layer or an encoder without batch norm, and --no-head-bn",
                UserWarning,
                stacklevel=2,
            )
        self.contexts = nn.ModuleList(RowsBefore(dim, chosen.context, chosen.depth) for _ in range(chosen.directions))
        made = (nn.Conv2d(chosen.context, chosen.steps * dim, 1) for _ in range(chosen.directions))
        self.predictors = nn.ModuleList(made)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean features h of the patches ``[n, F]``; predictions, patches, and the mean of these.

        Predictions are ``[n, directions, steps, grid, grid, D]``, rows and columns as seen from the direction.
        """
        patches = overlapping_patches(rows_of(views), self.options.grid, self.side)
        features = self.encoder(patches.flatten(0, 2))
        h, z = (rows.unflatten(0, patches.shape[:3]) for rows in (features, self.head(features)))
        told = []
        for turn, context, predictor in zip(TURNS, self.contexts, self.predictors, strict=False):
            seen = torch.rot90(z, turn, (1, 2)).permute(0, 3, 1, 2)
            told.append(predictor(context(seen)).unflatten(1, (self.options.steps, -1)).permute(0, 1, 3, 4, 2))
        return h.mean(dim=(1, 2)), (torch.stack(told, dim=1), z, z.detach().mean(dim=(1, 2)))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and that of the nearest and the farthest rows."""
        told, z, losses = widened(embeddings[0]), widened(embeddings[1]), []
        for each, turn in zip(told.unbind(1), TURNS, strict=False):
            seen = torch.rot90(z, turn, (1, 2))
            for index, rows in enumerate(each.unbind(1)):
                further = self.options.skip + 1 + index
                losses.append(self.criterion(rows[:, :-further].flatten(0, 2), seen[:, further:].flatten(0, 2)))
        means = torch.stack(losses).unflatten(0, (-1, self.options.steps)).mean(dim=0)
        return means.mean(), {"nearest_loss": means.detach()[0], "farthest_loss": means.detach()[-1]}


class RowsBefore(nn.Module):
    """Residual blocks from ``[n, D, h, w]`` to ``[n, C, h, w]``, of which row u sees rows up to u alone."""

    def __init__(self, dim: int, channels: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(dim, channels, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, (2, 3)) for _ in range(depth))
        self.mixes = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(depth))

    def forward(self, z: Tensor) -> Tensor:
        """Return the context of every position."""
        c: Tensor = self.first(z)
        for block, mix in zip(self.blocks, self.mixes, strict=True):
            c = c + mix(F.relu(block(F.pad(F.relu(c), (1, 1, 1, 0)))))
        return c
