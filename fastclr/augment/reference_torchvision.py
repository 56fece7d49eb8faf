"""The specification of style ``torchvision``: what its float functional API does to an image, in plain PyTorch."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.augment.reference_tf import rotate_hue

GREY = (0.2989, 0.587, 0.114)  # the weights of the channels


def _grey(x: Tensor) -> Tensor:
    """The brightness [1, H, W] of [3, H, W]; a grey image is its own."""
    return torch.tensordot(x.new_tensor(GREY), x, 1)[None] if len(x) == 3 else x


def _blend(x: Tensor, other: Tensor | float, factor: float) -> Tensor:
    """Clamp ``other + factor (x - other)`` to [0, 1]."""
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def adjust(x: Tensor, operation: int, value: float) -> Tensor:
    """Adjust brightness (0), contrast (1), saturation (2) or hue (3, in turns) of a float image [3 or 1, H, W].

    Contrast blends with the mean brightness, saturation with the brightness of each pixel; a grey image has neither
    saturation nor hue.

    Source: ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation`` and ``adjust_hue`` of
    ``torchvision.transforms.v2.functional``.
    """
    if operation == 0:
        return _blend(x, 0.0, value)
    if operation == 1:
        return _blend(x, _grey(x).mean(), value)
    if len(x) != 3:
        return x
    return _blend(x, _grey(x), value) if operation == 2 else rotate_hue(x, value)


def blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur of [C, H, W] with a window of 2 * radius + 1 and borders that mirror.

    Source: ``gaussian_blur`` of ``torchvision.transforms.v2.functional``.
    """
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.softmax(-0.5 * (distance / sigma) ** 2, 0).to(x)
    x = F.pad(x[:, None], [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, weights[None, None, :, None]), weights[None, None, None, :])[:, 0]


def replay(image: Tensor, row: list[float], size: int) -> Tensor:
    """One view of a float image [C, H, W] in [0, 1], operation by operation; C is 3, or 1 for a grey image."""
    top, left, height, width = (int(value) for value in row[:4])
    x = image[None, :, top : top + height, left : left + width]
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    if row[4]:
        x = x.flip(-1)
    for operation in tuple(permutations(range(4)))[int(row[9])] if row[9] >= 0 else ():
        x = adjust(x, operation, row[5 + operation])
    if row[10]:
        x = _grey(x).expand_as(x)
    radius = size // 10 // 2
    if row[11] > 0 and radius > 0:
        x = blur(x, row[11], radius)
    return torch.where(x >= 0.5, 1 - x, x) if row[12] else x
