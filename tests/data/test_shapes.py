"""The built-in shapes: reproducible, balanced, and not to be told apart without looking at the outline."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fastclr.data import ImageDataset, Splits, load_dataset, load_splits, make_shapes
from fastclr.data import shapes as module
from fastclr.data.shapes import SHAPES


@pytest.fixture(scope="module")
def splits() -> Splits:
    """The default data set."""
    return make_shapes()


def pixels(dataset: ImageDataset) -> Tensor:
    """The images as float64 between 0 and 1."""
    assert isinstance(dataset.images, Tensor)
    return dataset.images.double() / 255


def test_same_arguments_same_images(splits: Splits) -> None:
    """The word `shapes` and the function give the same data; the seed changes it; the two splits differ."""
    loaded = load_splits("shapes", seed=5)
    assert loaded.test is not None and splits.test is not None
    assert loaded.train.fingerprint == splits.train.fingerprint
    assert loaded.test.fingerprint == splits.test.fingerprint
    assert load_dataset("shapes", "test").fingerprint == splits.test.fingerprint
    other = make_shapes(8, 8, seed=1)
    assert not torch.equal(pixels(other.train), pixels(splits.train)[:8])
    assert other.test is not None and not torch.equal(pixels(other.train), pixels(other.test))


def test_first_images_do_not_depend_on_how_many_follow(splits: Splits) -> None:
    """A smaller data set is the beginning of a larger one, across chunks."""
    small = make_shapes(1500, 10).train
    assert torch.equal(pixels(small), pixels(splits.train)[:1500])
    assert torch.equal(small.labels, splits.train.labels[:1500])


def test_form(splits: Splits) -> None:
    """Sizes, dtypes, balanced classes, ids and names in order."""
    for dataset, count in ((splits.train, 4000), (splits.test, 1000)):
        assert dataset is not None and isinstance(dataset.images, Tensor)
        assert dataset.images.shape == (count, 32, 32, 3) and dataset.images.dtype == torch.uint8
        assert dataset.labels.bincount().tolist() == [count // 8] * 8 and len(dataset.classes) == 8
        assert dataset.ids.tolist() == list(range(count)) and list(dataset.names) == sorted(set(dataset.names))
        assert dataset.images.flatten(1).unique(dim=0).shape[0] == count
    assert make_shapes(9, 8, size=50).train.images.shape == (9, 50, 50, 3)  # type: ignore[union-attr]


def test_colour_says_nothing_about_the_class(splits: Splits) -> None:
    """A linear classifier on the mean, spread and centre colour of an image scores near chance (12.5%)."""
    assert splits.test is not None
    features = []
    for dataset in (splits.train, splits.test):
        images = pixels(dataset)
        mean, centre = images.mean((1, 2)), images[:, 12:20, 12:20].mean((1, 2))
        features.append(torch.cat([mean, centre, torch.ones(len(images), 1)], 1))
    # least squares on one-hot targets: linear discriminant analysis in closed form
    weights = torch.linalg.lstsq(features[0], torch.eye(8, dtype=torch.float64)[splits.train.labels]).solution
    accuracy = ((features[1] @ weights).argmax(1) == splits.test.labels).double().mean().item()
    assert accuracy < 0.18  # 1,000 images: four standard deviations above chance are 16.7%


def test_raw_pixels_say_little(splits: Splits) -> None:
    """The nearest neighbours in pixel space know the class of fewer than 35% of the images."""
    assert splits.test is not None
    train, test = pixels(splits.train).flatten(1), pixels(splits.test).flatten(1)
    mean = train.mean(0)
    train, test = (torch.nn.functional.normalize((part - mean).float(), dim=1) for part in (train, test))
    votes = torch.nn.functional.one_hot(splits.train.labels[(test @ train.T).topk(20).indices], 8).sum(1)
    assert (votes.argmax(1) == splits.test.labels).double().mean().item() < 0.35


INSIDE: dict[str, Callable[[float, float], bool]] = {
    "crescent": lambda x, y: math.hypot(x, y) < 0.92 and math.hypot(x - 0.48, y) > 0.72,
    "cross": lambda x, y: (abs(x) < 0.3 and abs(y) < 0.95) or (abs(y) < 0.3 and abs(x) < 0.95),
    "disc": lambda x, y: x * x + y * y < 0.82**2,
    "ell": lambda x, y: abs(x) < 0.75 and abs(y) < 0.75 and not (x > 0.1 and y > 0.1),
    "ring": lambda x, y: 0.48**2 < x * x + y * y < 0.88**2,
    "square": lambda x, y: max(abs(x), abs(y)) < 0.7,
}


def corners(count: int, radii: tuple[float, ...], turn: float) -> list[complex]:
    """The corners of a polygon, whose radii alternate."""
    return [radii[i % len(radii)] * np.exp(1j * (2 * np.pi * i / count + turn)) for i in range(count)]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_outlines(name: str) -> None:
    """Each distance is negative inside and positive outside of the figure that its name says."""
    points = np.random.default_rng(0).uniform(-1.1, 1.1, (4000, 2))
    distance = SHAPES[name](points[:, 0], points[:, 1])
    if name in INSIDE:
        inside = np.array([INSIDE[name](x, y) for x, y in points.tolist()])
    else:
        # winding number around the corners
        polygon = np.array(corners(10, (1.0, 0.42), 0) if name == "star" else corners(3, (1.0,), np.pi / 3))
        rays = polygon[:, None] - (points[:, 0] + 1j * points[:, 1])[None]
        inside = np.abs(np.angle(np.roll(rays, -1, 0) / rays).sum(0)) > np.pi
    clear = np.abs(distance) > 1e-9
    assert np.array_equal(distance[clear] < 0, inside[clear]) and 0.05 < inside.mean() < 0.7
    # a signed distance never changes faster than the point moves
    step = SHAPES[name](points[:, 0] + 1e-3, points[:, 1]) - distance
    assert np.abs(step).max() <= 1e-3 + 1e-9


def test_shapes_are_visible_in_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without texture every image has two levels of luma, well apart, so that grayscale does not hide the shape."""
    monkeypatch.setattr(module, "TEXTURE", 0.0)
    luma = pixels(make_shapes(400, 1).train) @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    low, high = luma.flatten(1).quantile(torch.tensor([0.02, 0.98], dtype=torch.float64), dim=1)
    assert (high - low).min().item() > 0.15


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"train": 0}, "train must be at least 1, got 0"),
        ({"test": -1}, "test must be at least 1, got -1"),
        ({"size": 7}, "size must be at least 8, got 7"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_refuses(kwargs: dict[str, int], message: str) -> None:
    """Numbers out of range are named."""
    with pytest.raises(ValueError, match=message):
        make_shapes(**kwargs)
