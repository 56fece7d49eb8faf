"""The deterministic view that evaluation uses, and views without colour changes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastclr.augment.config import AugmentConfig, AugmentParams
from fastclr.augment.images import RaggedImages

CROP_ABOVE = 32  # pixels: google-research/simclr centre-crops only above this size
CROP_FRACTION = 0.875


def evaluation_params(sizes: Tensor, size: int) -> AugmentParams:
    """Return the view for evaluation: centre square of the short side if `size` is at most 32 px, else 87.5% of it.

    Args:
        sizes: int64 ``[N, 2]``, heights and widths.
        size: side of the output in pixels.
    """
    short = sizes.amin(dim=1)
    side = (short * CROP_FRACTION).round().clamp_min(1).long() if size > CROP_ABOVE else short
    packed = torch.zeros(1, len(sizes), 16, dtype=torch.float32, device=sizes.device)
    packed[0, :, 0] = ((sizes[:, 0] - side) // 2).float()
    packed[0, :, 1] = ((sizes[:, 1] - side) // 2).float()
    packed[0, :, 2] = packed[0, :, 3] = side.float()
    packed[0, :, 5:8] = 1.0  # brightness, contrast and saturation of an unchanged image
    packed[0, :, 9] = -1.0
    return AugmentParams(packed)


def image_sizes(images: Tensor | RaggedImages) -> Tensor:
    """Return heights and widths of a batch, int64 ``[N, 2]``."""
    if isinstance(images, RaggedImages):
        return images.sizes
    return torch.tensor(images.shape[1:3], device=images.device).expand(len(images), 2)


def crop_and_flip(config: AugmentConfig) -> AugmentConfig:
    """Return `config` without its colour changes, blur and solarisation."""
    return dataclasses.replace(config, jitter_p=0.0, gray_p=0.0, blur_p=0.0, solarize_p=0.0)
