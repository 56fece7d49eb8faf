"""The operators of the findings against torchvision, SciPy and what they are defined to do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional

from fastclr.bench.findings import operators
from fastclr.bench.findings.operators import OPERATORS, SHARE, transform


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(24, 3, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize("name", OPERATORS)
def test_images_stay_images_and_the_same_seed_changes_them_alike(images: Tensor, name: str) -> None:
    torch.manual_seed(1)
    first = transform(images, [name])
    torch.manual_seed(1)
    again = transform(images, [name])
    assert first.shape == images.shape and first.dtype == images.dtype
    assert torch.equal(first, again)
    assert float(first.min()) >= -1e-6 and float(first.max()) <= 1 + 1e-6
    assert not torch.equal(first, images)


def test_a_share_is_left_alone_but_by_the_crop() -> None:
    torch.manual_seed(0)
    images = torch.rand(2000, 3, 8, 8)
    same = (transform(images, ["noise"]) == images).flatten(1).all(1).double().mean()
    assert float(same) == pytest.approx(1 - SHARE, abs=4 * math.sqrt(SHARE * (1 - SHARE) / 2000))
    assert not (transform(images, ["crop"]) == images).flatten(1).all(1).any()


def test_one_after_another(images: Tensor) -> None:
    torch.manual_seed(3)
    both = transform(images, ["rotate", "sobel"])
    torch.manual_seed(3)
    apart = transform(transform(images, ["rotate"]), ["sobel"])
    assert torch.equal(both, apart)
    with pytest.raises(ValueError, match=r"an operator must be one of crop, .* got 'flip'"):
        transform(images, ["flip"])


def test_crop_of_the_whole_image_is_the_image_or_its_mirror_image(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "CROP_AREA", (1.0, 1.0))
    monkeypatch.setattr(operators, "CROP_RATIO", (1.0, 1.0))
    found = operators.crop(images)
    kinds = [(each - image).abs().max() < 1e-5 for each, image in zip(found, images, strict=True)]
    mirrored = [(each - image.flip(2)).abs().max() < 1e-5 for each, image in zip(found, images, strict=True)]
    assert all(a or b for a, b in zip(kinds, mirrored, strict=True))
    assert 4 <= sum(map(bool, mirrored)) <= 20


def test_crop_takes_a_part_as_large_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # of a ramp, the slope tells the width of the crop, and the mean where it lies
    monkeypatch.setattr(operators, "CROP_AREA", (0.25, 0.25))
    monkeypatch.setattr(operators, "CROP_RATIO", (1.0, 1.0))
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(50, 3, 64, 64)
    found = operators.crop(ramp)
    slopes = (found[:, 0, 32, 48] - found[:, 0, 32, 16]).abs() / 32 * 63
    torch.testing.assert_close(slopes, torch.full_like(slopes, 0.5), rtol=1e-6, atol=1e-6)
    assert float(found.min()) < 0.1 and float(found.max()) > 0.9


def test_cutout_is_one_grey_square(images: Tensor) -> None:
    found = operators.cutout(images)
    for changed, image in zip(found, images, strict=True):
        hole = (changed != image).any(0)
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        assert len(rows) == len(columns) == 8 and int(hole.sum()) == 64
        assert bool((changed[:, hole] == 0.5).all())


def test_grey_and_hue(images: Tensor) -> None:
    torch.testing.assert_close(operators.gray(images), functional.rgb_to_grayscale(images))
    third = operators.turn_hue(images, torch.full((24,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(third, images.roll(1, dims=1))
    still = operators.turn_hue(images, torch.zeros(24, dtype=torch.float64))
    torch.testing.assert_close(still, images)


def test_sobel_is_scipys(images: Tensor) -> None:
    for found, channel in zip(operators.sobel(images).flatten(0, 1), images.flatten(0, 1).numpy(), strict=True):
        down, across = (ndimage.sobel(channel, axis=axis, mode="nearest") / 4 for axis in (0, 1))
        np.testing.assert_allclose(found.numpy(), np.minimum(np.sqrt(down**2 + across**2), 1), atol=1e-12)


def test_blur_is_torchvisions(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "SIGMA", (1.3, 1.3))
    expected = functional.gaussian_blur(images, [operators.TAPS, operators.TAPS], [1.3, 1.3])
    torch.testing.assert_close(operators.blur(images), expected, rtol=1e-6, atol=1e-7)


def test_noise_and_rotation(images: Tensor) -> None:
    grey = torch.full((400, 3, 8, 8), 0.5)
    assert float((operators.noise(grey) - grey).std()) == pytest.approx(operators.NOISE, rel=0.02)
    turned = operators.rotate(images)
    counts = [0, 0, 0, 0]
    for each, image in zip(turned, images, strict=True):
        (turn,) = [k for k in range(4) if torch.equal(each, torch.rot90(image, k, (1, 2)))]
        counts[turn] += 1
    assert min(counts) > 0


def test_strength_of_colour_bounds_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "JITTER", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(operators, "GRAY", 0.0)
    images = torch.rand(8, 3, 8, 8)
    torch.testing.assert_close(operators.color(images), images)
