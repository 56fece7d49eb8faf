"""Patches of a view, which jigsaw, relative patch location and PIRL show to the encoder one by one."""

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
        """Return the augmentation of the views; images of other than three channels have no colours to take away."""
        return dataclasses.replace(augment, gray_p=self.gray_p if augment.channels == 3 else 0.0)


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


def shuffled_patches(patches: Tensor) -> Tensor:
    """Return the patches ``[n, cells, 3, side, side]`` of each image in an order drawn from their pixels."""
    order = uniforms(patches.flatten(0, 1), 1).view(patches.shape[:2]).argsort(dim=1)
    return patches[torch.arange(len(patches), device=patches.device)[:, None], order]


def overlapping_patches(images: Tensor, grid: int, side: int) -> Tensor:
    """Return patches that overlap by half, row by row: ``[n, grid, grid, 3, side, side]``.

    Args:
        images: ``[n, 3, S, S]``.
        grid: patches per side.
        side: of a patch in pixels, even; rows and columns beyond ``(grid + 1) side / 2`` are left out.
    """
    step, used = side // 2, (grid + 1) * side // 2
    found = images[:, :, :used, :used].unfold(2, side, step).unfold(3, side, step)
    return found.permute(0, 2, 3, 1, 4, 5)


def overlapping_side(size: int, grid: int, encoder: nn.Module, title: str) -> int:
    """Return the side of patches that overlap by half, in pixels; errors are those of `patch_side`."""
    step = size // (grid + 1)
    if step < 2:
        raise ValueError(f"{title} needs views of at least {2 * (grid + 1)} px, for patches of 4 px, got {size}")
    check_takes(encoder, 2 * step, size, title)
    return 2 * step


def patch_side(size: int, grid: int, share: float, encoder: nn.Module, title: str) -> int:
    """Return the side of the patches in pixels: a share of the side of a cell.

    Raises:
        ValueError: the views are too small, or the encoder takes no image of this size.
    """
    if size // grid < 4:
        raise ValueError(f"{title} needs views of at least {4 * grid} px, for cells of 4 px, got {size}")
    side = max(1, round(size // grid * share))
    check_takes(encoder, side, size, title)
    return side


def check_takes(encoder: nn.Module, side: int, size: int, title: str) -> None:
    """Raise a ValueError unless the encoder takes images of `side` px, cut from views of `size` px."""
    try:
        feature_dim(encoder, side)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{title} shows patches of {side} px to the encoder, which does not take them ({error}): take a ResNet or "
            f"larger views (now {size} px)"
        ) from error
