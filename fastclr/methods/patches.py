"""Patches of a view, which jigsaw and relative patch location show to the encoder one by one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.methods.draws import uniforms
from fastclr.methods.encoders import feature_dim
from fastclr.methods.options import Check
from fastclr.methods.pretext import OneViewOptions


@dataclass(frozen=True, kw_only=True)
class PatchOptions(OneViewOptions):
    """The options of methods that show patches."""

    patch: float = 0.75
    """Side of a patch as a share of its cell's; it lies anywhere inside the cell."""
    gray_p: float = 0.66
    """Probability of grey views: colour fringes would give the place of a patch away."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("patch", 0 < self.patch <= 1, "a share up to 1"),
            ("gray_p", 0 <= self.gray_p <= 1, "a probability"),
        ]

    def pair(self, augment: AugmentConfig) -> AugmentConfig:
        """Return the augmentation of the views."""
        return dataclasses.replace(augment, gray_p=self.gray_p)


def cut_patches(images: Tensor, grid: int, side: int) -> Tensor:
    """Return one patch of each cell of a grid, row by row: ``[n, grid^2, 3, side, side]``.

    A patch lies anywhere inside its cell, so that the edges of neighbours do not meet; its place is drawn from the
    pixels of the image, see `uniforms`. Rows and columns beyond the last whole cell are left out.

    Args:
        images: ``[n, 3, S, S]``.
        grid: cells per side.
        side: of a patch in pixels, at most that of a cell, ``S // grid``.
    """
    cell, cells = images.shape[-1] // grid, grid * grid
    shifts = (uniforms(images, 2 * cells) * (cell - side + 1)).long().unflatten(1, (2, cells))
    index = torch.arange(cells, device=images.device)
    inside = torch.arange(side, device=images.device)
    rows = (index // grid * cell + shifts[:, 0])[..., None] + inside  # [n, cells, side]
    columns = (index % grid * cell + shifts[:, 1])[..., None] + inside
    number = torch.arange(len(images), device=images.device)[:, None, None, None]
    found = images.permute(0, 2, 3, 1)[number, rows[..., :, None], columns[..., None, :]]
    return found.permute(0, 1, 4, 2, 3)


def patch_side(size: int, grid: int, share: float, encoder: nn.Module, title: str) -> int:
    """Return the side of the patches in pixels: a share of the side of a cell.

    Raises:
        ValueError: the views are too small, or the encoder takes no image of this size.
    """
    if size // grid < 4:
        raise ValueError(f"{title} needs views of at least {4 * grid} px, for cells of 4 px, got {size}")
    side = max(1, round(size // grid * share))
    try:
        feature_dim(encoder, side)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{title} shows patches of {side} px to the encoder, which does not take them ({error}): take a ResNet or "
            f"larger views (now {size} px)"
        ) from error
    return side
