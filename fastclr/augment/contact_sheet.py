"""A contact sheet: images side by side with their augmented views."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fastclr.augment.config import AugmentConfig, AugmentParams
from fastclr.augment.fixed_view import evaluation_params
from fastclr.augment.images import RaggedImages
from fastclr.augment.simclr import SimCLRAugment

GAP = 4  # pixels between the tiles
WHITE = 255


def contact_sheet(
    images: Sequence[Tensor], config: AugmentConfig, views: int = 8, seed: int = 0, epoch: int = 0
) -> tuple[Tensor, AugmentParams]:
    """Draw images and their views; image i has id i, and `config`'s normalisation is ignored.

    Args:
        images: uint8 ``[H, W, C]`` on the CPU, of any sizes, with `config`'s number of channels.
        config: the augmentation.
        views: number of views V.
        seed: 0 to 2^63 - 1.
        epoch: 0 to 2^32 - 1.

    Returns:
        uint8 ``[rows, columns, 3]`` with one row of V + 1 tiles per image, as `as_rgb` shows them, and the parameters
        of the views.

    Raises:
        TypeError: an image is not uint8.
        ValueError: there are no images, or an argument is out of range.
    """
    if not images:
        raise ValueError("there are no images to draw")
    sizes = torch.tensor([image.shape[:2] for image in images])
    if any(image.shape[2] != config.channels for image in images):
        found = sorted({image.shape[2] for image in images})
        raise ValueError(f"images must have the configuration's channels={config.channels}, got {found}")
    counts = config.channels * sizes.prod(1)
    data = torch.cat([image.reshape(-1) for image in images])
    batch = RaggedImages(data, counts.cumsum(0) - counts, sizes, config.channels)
    config = dataclasses.replace(config, mean=None, std=None)
    augment = SimCLRAugment(config, views, seed, torch.uint8)
    params = augment.params(torch.arange(len(images)), epoch, sizes)
    tiles = torch.cat([augment.apply(batch, evaluation_params(sizes, config.size)), augment.apply(batch, params)])
    step = config.size + GAP
    sheet = torch.full((len(images) * step - GAP, len(tiles) * step - GAP, 3), WHITE, dtype=torch.uint8)
    for column, view in enumerate(tiles):
        for row, tile in enumerate(view):
            sheet[row * step :, column * step :][: config.size, : config.size] = as_rgb(tile.permute(1, 2, 0))
    return sheet, params


def as_rgb(pixels: Tensor) -> Tensor:
    """Return ``[H, W, C]`` as ``[H, W, 3]``, to be seen: the first three channels, or one of fewer as grey."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].expand(*pixels.shape[:-1], 3)
