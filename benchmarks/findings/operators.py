"""The transformations of SimCLR's Figure 5 in plain PyTorch, each drawn anew for every image.

They are here to be right, not fast. Images are float ``[n, 3, S, S]`` in [0, 1], on any device; random numbers come
from torch's generator, which the training loop seeds by step. All but the crop are applied with `SHARE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Operator = Callable[[Tensor], Tensor]

SHARE = 0.8  # of the images change; the paper has this for colour only, and states nothing of the others
CROP_AREA = (0.25, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue: CIFAR's strength
GRAY = 0.2
HOLE = 0.5  # of the side
NOISE = 0.15
SIGMA = (0.1, 2.0)
TAPS = 7
LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey


def crop(images: Tensor) -> Tensor:
    """Crop an area at random, resize it to the image's size, and mirror half of the images."""
    n, device = len(images), images.device
    area = uniform(n, *CROP_AREA, device)
    ratio = uniform(n, math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]), device).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = (1 - width) * uniform(n, -1, 1, device), (1 - height) * uniform(n, -1, 1, device)
    mirrored = torch.where(torch.rand(n, device=device) < 0.5, -width, width)
    none = torch.zeros_like(width)
    theta = torch.stack([mirrored, none, across, none, height, down], dim=1).view(n, 2, 3).to(images.dtype)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def cutout(images: Tensor) -> Tensor:
    """Fill a square of half the side, wherever it lies inside, with grey."""
    n, size = len(images), images.shape[-1]
    hole = max(1, round(HOLE * size))
    top, left = (torch.randint(0, size - hole + 1, (n, 1), device=images.device) for _ in range(2))
    place = torch.arange(size, device=images.device)
    rows, columns = ((place >= start) & (place < start + hole) for start in (top, left))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.5)


def color(images: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in this order, then grey for some; `AugmentConfig` draws the order."""
    n, device = len(images), images.device
    brightness, contrast, saturation = (uniform(n, 1 - x, 1 + x, device).to(images.dtype) for x in JITTER[:3])
    images = (images * brightness[:, None, None, None]).clamp(0, 1)
    mean = gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = torch.lerp(mean.expand_as(images), images, contrast[:, None, None, None]).clamp(0, 1)
    images = torch.lerp(gray(images).expand_as(images), images, saturation[:, None, None, None]).clamp(0, 1)
    images = turn_hue(images, uniform(n, -JITTER[3], JITTER[3], device).to(images.dtype)).clamp(0, 1)
    return chosen(gray(images).expand_as(images), images, GRAY)


def gray(images: Tensor) -> Tensor:
    """The weighted mean of the channels, ``[n, 1, S, S]``."""
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the colours about the grey axis; lengths in the plane of the colours stay, unlike with HSV."""
    angle = 2 * math.pi * turns
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis = images.new_full((3, 3), 1 / 3)
    cross = (images.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])) / math.sqrt(3)
    rotation = cos * (torch.eye(3, dtype=images.dtype, device=images.device) - axis) + sin * cross + axis
    return torch.einsum("nij,njhw->nihw", rotation, images)


def sobel(images: Tensor) -> Tensor:
    """The length of the gradient of every channel, by Sobel's 3 x 3 filters, 1 at the most."""
    down = images.new_tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]) / 4
    filters = torch.stack([down, down.T])[:, None].repeat(3, 1, 1, 1)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    found: Tensor = functional.conv2d(padded, filters, groups=3).unflatten(1, (3, 2))
    length: Tensor = found.square().sum(2).sqrt()
    return length.clamp(max=1)


def noise(images: Tensor) -> Tensor:
    """Add Gaussian noise."""
    return (images + NOISE * torch.randn_like(images)).clamp(0, 1)


def blur(images: Tensor) -> Tensor:
    """Blur with a Gaussian of a width drawn from `SIGMA`, in pixels."""
    n, (lo, hi) = len(images), SIGMA
    sigma = uniform(n, lo, hi, images.device).to(images.dtype)
    place = torch.arange(TAPS, dtype=images.dtype, device=images.device) - TAPS // 2
    window = torch.exp(-0.5 * (place / sigma[:, None]).square())
    window = (window / window.sum(1, keepdim=True)).repeat_interleave(3, dim=0)
    pad = TAPS // 2
    flat = functional.pad(images, (pad, pad, pad, pad), mode="reflect").flatten(0, 1)[None]
    flat = functional.conv2d(flat, window[:, None, :, None], groups=3 * n)
    blurred: Tensor = functional.conv2d(flat, window[:, None, None, :], groups=3 * n)[0]
    return blurred.view(n, 3, *images.shape[2:])


def rotate(images: Tensor) -> Tensor:
    """Turn every image by a right angle, or not."""
    turns = torch.randint(0, 4, (len(images),), device=images.device)
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]


# in the order of the paper's figure
OPERATORS: dict[str, Operator] = {
    "crop": crop,
    "cutout": cutout,
    "color": color,
    "sobel": sobel,
    "noise": noise,
    "blur": blur,
    "rotate": rotate,
}


def transform(images: Tensor, names: Sequence[str]) -> Tensor:
    """Apply operators one after another, each to its share of the images.

    Raises:
        ValueError: there is no such operator.
    """
    for name in names:
        if name not in OPERATORS:
            raise ValueError(f"an operator must be one of {', '.join(OPERATORS)}, got {name!r}")
        images = chosen(OPERATORS[name](images), images, 1.0 if name == "crop" else SHARE)
    return images


def chosen(new: Tensor, old: Tensor, share: float) -> Tensor:
    """Take each image from `new` with probability `share`, else from `old`."""
    return torch.where((torch.rand(len(old), device=old.device) < share)[:, None, None, None], new, old)


def uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    """Return ``[count]`` float32 numbers between low and high."""
    return low + (high - low) * torch.rand(count, device=device)
