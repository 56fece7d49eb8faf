"""The specification of style ``simclr_tf``: what SimCLR's TensorFlow code does to an image, in torch and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint32]
CROP_ATTEMPTS = 100
FIRST_BLOCK = 256  # Philox block of the crop's first attempt


def boxes(
    words: Callable[[int], list[Words]],
    uniform: Callable[[Words, float, float], NDArray[np.float64]],
    pick: Callable[[Words, NDArray[np.int64]], NDArray[np.int64]],
    sizes: NDArray[np.int64],
    sampler: Mapping[str, float],
) -> NDArray[Any]:
    """Crop boxes int64 [V, N, 4] of ``tf.image.sample_distorted_bounding_box`` with the whole image as the one object.

    The ratio is uniform, the height a uniform integer between those of the smallest and the largest area, and the
    largest offset is never drawn. A box that covers too little of the image is redrawn, in up to a hundred attempts;
    after those the crop is the whole image.
    """
    h, w = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    least, most = sampler["crop_scale_lo"] * h * w, sampler["crop_scale_hi"] * h * w
    whole = np.stack([np.zeros_like(h), np.zeros_like(h), h, w], axis=-1).astype(np.int64)
    shape = words(FIRST_BLOCK)[0].shape
    found, missing = np.broadcast_to(whole, (*shape, 4)), np.ones(shape, dtype=np.bool_)
    for attempt in range(CROP_ATTEMPTS):
        random = words(FIRST_BLOCK + attempt)
        ratio = uniform(random[0], sampler["crop_ratio_lo"], sampler["crop_ratio_hi"])
        highest = np.rint(np.sqrt(most / ratio))
        highest = np.where(np.rint(highest * ratio) > w, np.floor((w + 0.5 - 1e-7) / ratio), highest)
        highest = np.minimum(highest, h)
        lowest = np.minimum(np.rint(np.sqrt(least / ratio)), highest)
        high = lowest + pick(random[1], (highest - lowest).astype(np.int64) + 1)
        high = high + (high * np.rint(high * ratio) < least)
        high = high - (high * np.rint(high * ratio) > most)
        wide = np.rint(high * ratio)
        area = high * wide
        fits = (high >= 1) & (high <= h) & (wide >= 1) & (wide <= w) & (area >= least) & (area <= most)
        fits &= area >= sampler["min_object_covered"] * h * w
        rows, columns = np.where(fits, high, 1).astype(np.int64), np.where(fits, wide, 1).astype(np.int64)
        top, left = pick(random[2], sizes[:, 0] - rows), pick(random[3], sizes[:, 1] - columns)
        found = np.where((fits & missing)[..., None], np.stack([top, left, rows, columns], axis=-1), found)
        missing &= ~fits
        if not missing.any():
            break
    return found


def _keys(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, for 0 <= x <= 2."""
    return torch.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def _bicubic_matrix(source: int, size: int, like: Tensor) -> Tensor:
    """Weights [size, source] of ``tf.image.resize(..., "bicubic")``: half-pixel centres, no antialiasing.

    Source: TensorFlow's ResizeBicubic, whose table has 1024 entries per pixel; pixels outside get no weight.
    """
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * source / size - 0.5
    below = position.floor()
    delta = ((position - below) * 1024).round() / 1024
    weights = torch.zeros(size, source, dtype=torch.float64)
    for tap, distance in zip((-1, 0, 1, 2), (1 + delta, delta, 1 - delta, 2 - delta), strict=True):
        index = below.long() + tap
        inside = (index >= 0) & (index < source)
        weights[inside.nonzero()[:, 0], index[inside]] += _keys(distance)[inside]
    return (weights / weights.sum(1, keepdim=True)).to(like)


def _saturate(x: Tensor, factor: float) -> Tensor:
    """Multiply the HSV saturation; hue and value stay the same."""
    value, least = x.amax(0), x.amin(0)
    chroma = value - least
    saturation = torch.where(value > 0, chroma / value.where(value > 0, torch.ones_like(value)), 0).mul(factor)
    ratio = torch.where(
        chroma > 0, saturation.clamp(0, 1) * value / chroma.where(chroma > 0, torch.ones_like(value)), 0
    )
    return value - (value - x) * ratio


def rotate_hue(x: Tensor, turns: float) -> Tensor:
    """Shift the HSV hue; saturation and value stay the same."""
    r, g, b = x
    value, chroma = x.amax(0), x.amax(0) - x.amin(0)
    divisor = chroma.where(chroma > 0, torch.ones_like(chroma))
    sextant = torch.where(
        value == r, (g - b) / divisor, torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    )
    place = torch.stack([(n + sextant + 6 * turns) % 6 for n in (5, 3, 1)])
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def _blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur with a window of 2 * radius + 1 and zero padding."""
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights = (weights / weights.sum()).to(x)
    x = torch.nn.functional.conv2d(x[:, None], weights[None, None, :, None], padding=(radius, 0))
    return torch.nn.functional.conv2d(x, weights[None, None, None, :], padding=(0, radius))[:, 0]


def replay(image: Tensor, row: list[float], size: int, additive: bool) -> Tensor:
    """One view of a float image [C, H, W] in [0, 1], operation by operation; C is 3, or 1 for a grey image.

    Source: data_util.py of google-research/simclr; `additive` selects its version 1 of the brightness.
    """
    top, left, height, width = (int(value) for value in row[:4])
    x = image[:, top : top + height, left : left + width]
    x = _bicubic_matrix(height, size, x) @ x @ _bicubic_matrix(width, size, x).T
    if row[4]:
        x = x.flip(-1)
    for operation in tuple(permutations(range(4)))[int(row[9])] if row[9] >= 0 else ():
        if operation > 1 and len(x) != 3:  # saturation and hue
            continue
        value = row[5 + operation]
        if operation == 0:
            x = x + value if additive else x * value
        elif operation == 1:
            mean = x.mean((1, 2), keepdim=True)
            x = (x - mean) * value + mean
        else:
            x = _saturate(x, value) if operation == 2 else rotate_hue(x, value)
        x = x.clamp(0, 1)
    if row[10] and len(x) == 3:
        x = (x * x.new_tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(0).expand(3, -1, -1)
    x = x.clamp(0, 1)
    if row[11] > 0 and size // 10 // 2 > 0:
        x = _blur(x, row[11], size // 10 // 2)
    return torch.where(x >= 0.5, 1 - x, x) if row[12] else x
