"""The style of SimCLR's TensorFlow code, against a float64 transcription of its formulas in NumPy."""

from __future__ import annotations

import colorsys
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment

Image = NDArray[np.float64]
TOLERANCE = 1e-5
STYLE = {"style": "simclr_tf"}


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random uint8 images that use the whole range, with similar neighbours."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, 9, 9, generator=generator) * 1.6 - 0.3
    images = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def keys(x: float) -> float:
    """The cubic of Keys (1981) with a = -0.5."""
    a, x = -0.5, abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(image: Image, size: int, axis: int) -> Image:
    """Resize one axis: half-pixel centres, offsets in steps of 1/1024, taps outside dropped, the rest renormalised."""
    source = image.shape[axis]
    lines = []
    for i in range(size):
        centre = (i + 0.5) * source / size - 0.5
        first = math.floor(centre)
        offset = round((centre - first) * 1024) / 1024
        taps = [(first + t, keys(offset - t)) for t in (-1, 0, 1, 2) if 0 <= first + t < source]
        total = sum(weight for _, weight in taps)
        lines.append(sum(image.take(index, axis) * (weight / total) for index, weight in taps))
    return np.stack(lines, axis)


def scale_saturation(image: Image, scale: float) -> Image:
    """Scale the HSV saturation, pixel by pixel, clamped to 1; black has none."""
    out = np.repeat(image.max(-1, keepdims=True), 3, -1)
    for y, x in zip(*np.nonzero(image.max(-1) > 0), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*image[y, x])
        out[y, x] = colorsys.hsv_to_rgb(h, min(1.0, s * scale), v)
    return out


def shift_hue(image: Image, turns: float) -> Image:
    """Shift the hue, pixel by pixel, via sextant, maximum, middle and minimum."""
    out = image.copy()
    for y, x in np.ndindex(image.shape[:2]):
        low, high = image[y, x].min(), image[y, x].max()
        if high == low:
            continue
        hue = (colorsys.rgb_to_hsv(*((image[y, x] - low) / (high - low)))[0] + turns) % 1.0 * 6.0
        sextant = int(hue)
        part = hue - sextant if sextant % 2 == 0 else 1 - (hue - sextant)
        middle = low + (high - low) * part
        order = [(high, middle, low), (middle, high, low), (low, high, middle)]
        order += [(low, middle, high), (middle, low, high), (high, low, middle)]
        out[y, x] = order[sextant]
    return out


def blur(image: Image, sigma: float) -> Image:
    """Separable Gaussian of radius int(size // 10 / 2) on an image surrounded by zeros."""
    size = image.shape[0]
    radius = int((size // 10) / 2)
    weights = np.array([math.exp(-(d * d) / (2 * sigma * sigma)) for d in range(-radius, radius + 1)])
    weights /= weights.sum()
    padded = np.pad(image, ((radius, radius), (0, 0), (0, 0)))
    image = sum(w * padded[d : d + size] for d, w in enumerate(weights))
    padded = np.pad(image, ((0, 0), (radius, radius), (0, 0)))
    return np.asarray(sum(w * padded[:, d : d + size] for d, w in enumerate(weights)))


def transcription(image: Image, row: list[float], size: int, additive: bool) -> Image:
    """data_util.py for one image [H, W, 3] in [0, 1], with given random parameters."""
    top, left, height, width = (int(value) for value in row[:4])
    x = bicubic(bicubic(image[top : top + height, left : left + width], size, 0), size, 1)
    x = x[:, ::-1] if row[4] else x
    for operation in list(itertools.permutations(range(4)))[int(row[9])] if row[9] >= 0 else ():
        value = row[5 + operation]
        if operation == 0:
            x = x + value if additive else x * value
        elif operation == 1:
            mean = x.mean(axis=(0, 1))
            x = (x - mean) * value + mean
        else:
            x = scale_saturation(x, value) if operation == 2 else shift_hue(x, value)
        x = np.clip(x, 0, 1)
    if row[10]:
        x = np.repeat((x @ np.array([0.2989, 0.587, 0.114]))[..., None], 3, -1)
    x = np.clip(x, 0, 1)
    return np.clip(blur(x, row[11]), 0, 1) if row[11] > 0 else x


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("brightness", ["multiplicative", "additive"])
@pytest.mark.parametrize(("size", "shape"), [(33, (25, 60)), (24, (90, 70)), (48, (1, 3)), (7, (40, 30))])
def test_pipeline_equals_transcription(impl: str, brightness: str, size: int, shape: tuple[int, int]) -> None:
    """Every operation on, upscaling and downscaling, including images of a few pixels."""
    config = AugmentConfig(size, jitter_p=0.9, blur_p=0.7, style="simclr_tf", brightness=brightness)
    images = pictures(3, *shape, seed=size)
    augment = SimCLRAugment(config, views=3, seed=size, impl=impl)
    params = augment.params(torch.arange(3), 0, shape)
    views = augment.apply(images, params).double().numpy()
    for v, n in np.ndindex(3, 3):
        row = params.packed[v, n].tolist()
        expected = transcription(images[n].numpy() / 255, row, size, brightness == "additive")
        assert np.abs(views[v, n] - expected.transpose(2, 0, 1)).max() < TOLERANCE


@pytest.mark.parametrize("brightness", ["multiplicative", "additive"])
def test_all_orders(brightness: str) -> None:
    """Only the first operation clips a resize that overshoots; the contrast sees the result of what precedes it."""
    images = (pictures(1, 10, 10) > 127).to(torch.uint8) * 255
    packed = torch.zeros(24, 1, 16)
    packed[..., 2:4], packed[:, 0, 9] = 10, torch.arange(24.0)
    packed[:, 0, 5:9] = torch.tensor([-0.3 if brightness == "additive" else 1.4, 0.5, 1.7, 0.15])
    config = AugmentConfig(20, style="simclr_tf", brightness=brightness)
    views = SimCLRAugment(config, impl="native").apply(images, AugmentParams(packed))
    for v in range(24):
        expected = transcription(images[0].numpy() / 255, packed[v, 0].tolist(), 20, brightness == "additive")
        assert np.abs(views[v, 0].double().numpy() - expected.transpose(2, 0, 1)).max() < TOLERANCE


def tensorflow_box(random: np.random.Generator, height: int, width: int, covered: float) -> tuple[int, int, int, int]:
    """sample_distorted_bounding_box_op.cc for area (0.08, 1), ratio (3/4, 4/3), the whole image as the object."""
    for _ in range(100):
        ratio = random.uniform(0.75, 4 / 3)
        low, high = 0.08 * height * width, float(height * width)
        rows, most = round(math.sqrt(low / ratio)), round(math.sqrt(high / ratio))
        if round(most * ratio) > width:
            most = int((width + 0.5 - 1e-7) / ratio)
        most = min(most, height)
        rows = min(rows, most)
        rows += int(random.integers(0, most - rows + 1))
        if rows * round(rows * ratio) < low:
            rows += 1
        if rows * round(rows * ratio) > high:
            rows -= 1
        columns = round(rows * ratio)
        area = rows * columns
        if area < low or area > high or not 0 < columns <= width or not 0 < rows <= height:
            continue
        if area < covered * height * width:
            continue
        top = int(random.integers(0, height - rows)) if rows < height else 0
        left = int(random.integers(0, width - columns)) if columns < width else 0
        return top, left, rows, columns
    return 0, 0, height, width


@pytest.mark.parametrize("size", [(375, 500), (400, 60), (32, 32)])
def test_boxes_follow_tensorflow(size: tuple[int, int]) -> None:
    """Kolmogorov-Smirnov against the sampler's loop, including a narrow image with rejections."""
    config = AugmentConfig(32, **STYLE)
    ours = SimCLRAugment(config, views=1, seed=2).params(torch.arange(20_000), 0, size).crop[0].numpy()
    random = np.random.default_rng(1)
    theirs = np.array([tensorflow_box(random, *size, 0.1) for _ in range(8000)])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert (ours[:, :2] + ours[:, 2:] <= np.array(size)).all()


def test_mean_crop_area() -> None:
    """The styles draw different crops: on a photo, 0.37 of the image (0.39 with the minimum of 0.1) against 0.43."""
    styles = [
        (AugmentConfig(32), 0.432, 0.181),
        (AugmentConfig(32, **STYLE, min_object_covered=0.0), 0.370, 0.279),
        (AugmentConfig(32, **STYLE), 0.388, 0.234),
    ]
    for config, mean, small in styles:
        crop = SimCLRAugment(config, views=1).params(torch.arange(100_000), 0, (375, 500)).crop.double()
        area = crop[0, :, 2:].prod(1) / (375 * 500)
        assert float(area.mean()) == pytest.approx(mean, abs=0.004)
        assert float((area < 0.2).double().mean()) == pytest.approx(small, abs=0.008)
        assert config.style == "torchvision" or float(area.min()) >= max(0.08, config.min_object_covered)


def test_summands_and_one_sigma() -> None:
    """Additive brightness is uniform about 0, and one sigma serves all images of an epoch and view."""
    config = AugmentConfig(40, **STYLE, brightness="additive", blur_sigma_per_batch=True)
    augment = SimCLRAugment(config, views=3)
    epochs = [augment.params(torch.arange(20_000), epoch, (50, 50)) for epoch in range(2)]
    jitter = epochs[0].order[0, :, 0] >= 0
    summand = epochs[0].brightness[0]
    assert stats.kstest(summand[jitter].numpy(), stats.uniform(-0.8, 1.6).cdf).pvalue > 1e-3
    assert not summand[~jitter].any()
    sigmas = [params.blur_sigma[v].unique() for params in epochs for v in range(3)]
    assert all(len(sigma) == 2 and float(sigma[0]) == 0.0 and 0.1 <= float(sigma[1]) < 2.0 for sigma in sigmas)
    assert len({float(sigma[1]) for sigma in sigmas}) == 6
    own = dataclasses.replace(config, blur_sigma_per_batch=False)
    assert len(SimCLRAugment(own).params(torch.arange(100), 0, (50, 50)).blur_sigma.unique()) > 50
