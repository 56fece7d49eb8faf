"""The specification of style ``torchvision`` needs no torchvision, and computes what torchvision does."""

from __future__ import annotations

import colorsys
import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.reference import ORDERS
from fastclr.augment.reference_torchvision import adjust, blur, replay

ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
TOLERANCE = 1e-12  # float64
HUE_TOLERANCE = 1e-5  # torchvision turns hues in float32


def noise(channels: int, height: int, width: int) -> Tensor:
    """A float64 image in [0, 1] of 8 bits, with black, white, grey and primary pixels among random ones."""
    image = torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(height))
    corners = torch.tensor(list(itertools.product((0, 128, 255), repeat=channels))).T
    count = min(corners.shape[1], height * width // 2)
    image.view(channels, -1)[:, :count] = corners[:, :count]
    return image.double() / 255


def by_torchvision(image: Tensor, row: list[float], size: int) -> Tensor:
    """One view, by torchvision's functions alone."""
    top, left, height, width = (int(value) for value in row[:4])
    x = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    x = F.horizontal_flip(x) if row[4] else x
    for operation in ORDERS[int(row[9])] if row[9] >= 0 else ():
        x = ADJUST[operation](x, row[5 + operation])
    x = F.rgb_to_grayscale(x, num_output_channels=len(x)) if row[10] else x
    if row[11] > 0 and size >= 20:
        x = F.gaussian_blur(x, [2 * (size // 10 // 2) + 1] * 2, [row[11]] * 2)
    found: Tensor = F.solarize(x, 0.5) if row[12] else x
    return found


def shifted(r: float, g: float, b: float, turns: float) -> tuple[float, float, float]:
    """One pixel with another hue, by Python's own conversions."""
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    return colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [7, 32, 96])
def test_views_equal_those_of_torchvision(channels: int, size: int) -> None:
    """Random parameters with every operation, on sources of many shapes."""
    config = AugmentConfig(size, jitter_p=0.9, gray_p=0.3, blur_p=0.7, solarize_p=0.3)
    for height, width in ((1, 1), (1, 9), (13, 2), (32, 32), (60, 200)):
        image, sizes = noise(channels, height, width), torch.tensor([[height, width]] * 6)
        params = SimCLRAugment(config, views=3, seed=size, impl="reference").params(torch.arange(6), 0, sizes)
        for row in params.packed.flatten(0, 1).tolist():
            allowed = HUE_TOLERANCE if row[9] >= 0 and channels == 3 else TOLERANCE
            assert float((replay(image, row, size) - by_torchvision(image, row, size)).abs().max()) < allowed, row


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_equals_that_of_torchvision(channels: int) -> None:
    image = noise(channels, 30, 40)
    for operation in range(3):
        for value in (0.0, 0.3, 1.0, 7.0):
            expected = ADJUST[operation](image, value)
            assert float((adjust(image, operation, value) - expected).abs().max()) < TOLERANCE, (operation, value)
    for turns in (-0.5, -0.2, 0.0, 0.01, 0.5):
        found = adjust(image, 3, turns)
        assert float((found - F.adjust_hue(image, turns)).abs().max()) < HUE_TOLERANCE, turns
        pixels = torch.tensor(
            [shifted(*pixel, turns) for pixel in image.expand(3, -1, -1).flatten(1).T.tolist()], dtype=torch.float64
        )
        assert float((found - pixels.T.reshape(3, 30, 40)).abs().max()) < TOLERANCE, turns
    for sigma, radius in itertools.product((0.001, 0.1, 2.0, 50.0), (1, 4)):
        expected = F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
        assert float((blur(image, sigma, radius) - expected).abs().max()) < TOLERANCE
