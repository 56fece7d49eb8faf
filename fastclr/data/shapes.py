"""The built-in data set: coloured shapes on textured backgrounds, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.order import UINT64_MAX, raw_bits
from fastclr.data.shape_captions import describe

Array = npt.NDArray[np.float64]

# tuned so that raw pixels and untrained networks reveal little of the class, and a few minutes of SimCLR much:
# large shapes survive random crops, and faint textures are no shortcut for telling images apart
RADIUS = (0.24, 0.44)
CONTRAST = (0.25, 0.50)
TEXTURE = 0.05

CHUNK = 1024
DRAWS = 25  # random numbers that draw() uses for each image
MIN_SIZE = 8
LUMA = np.array([0.299, 0.587, 0.114])


def crescent(x: Array, y: Array) -> Array:
    """Return the signed distance to a disc with a disc bitten out."""
    bite = 0.72 - np.hypot(x - 0.48, y)
    return np.maximum(np.hypot(x, y) - 0.92, bite)


def cross(x: Array, y: Array) -> Array:
    """Return the signed distance to a plus sign."""
    across, along = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.maximum(across - 0.3, along - 0.95)


def disc(x: Array, y: Array) -> Array:
    """Return the signed distance to a disc."""
    return np.hypot(x, y) - 0.82


def ell(x: Array, y: Array) -> Array:
    """Return the signed distance to a square without one quarter."""
    notch = np.minimum(x, y) - 0.1
    return np.maximum(np.maximum(np.abs(x), np.abs(y)) - 0.75, notch)


def ring(x: Array, y: Array) -> Array:
    """Return the signed distance to a ring."""
    return np.abs(np.hypot(x, y) - 0.68) - 0.2


def square(x: Array, y: Array) -> Array:
    """Return the signed distance to a square."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def star(x: Array, y: Array) -> Array:
    """Return the signed distance to the edges of a five-pointed star with tips at radius 1 and notches at 0.42."""
    sector = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(y, x) + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    edge_x, edge_y = 0.42 * math.cos(sector / 2) - 1, 0.42 * math.sin(sector / 2)
    distance: Array = (radius * np.cos(angle) - 1) * edge_y - radius * np.sin(angle) * edge_x
    return distance / math.hypot(edge_x, edge_y)


def triangle(x: Array, y: Array) -> Array:
    """Return the signed distance to the edges of an equilateral triangle."""
    right, left = (0.5 * math.sqrt(3) * y * side - 0.5 * x for side in (1, -1))
    return np.maximum(np.maximum(x, right), left) - 0.5


# signed distance in units of the shape's radius, negative inside
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    shape.__name__: shape for shape in (crescent, cross, disc, ell, ring, square, star, triangle)
}


def make_shapes(
    train: int = 4000, test: int = 1000, size: int = 32, seed: int = 0, *, captions: bool = False
) -> Splits:
    """Draw images of eight shapes with random position, size, rotation, colours and textures.

    The classes are equally frequent. Everything but the outline is drawn independently of the class, so colour says
    nothing about it. The same arguments give the same images; the first images do not depend on how many follow.

    Args:
        train: number of training images.
        test: number of test images, drawn independently.
        size: height and width in pixels, at least 8.
        seed: key of the random numbers.
        captions: also say what is there, as in "small red star, top left".

    Raises:
        ValueError: a number is out of range.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("size", size, MIN_SIZE)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    return Splits(
        draw_split("train", train, size, seed, captions=captions),
        draw_split("test", test, size, seed, captions=captions),
    )


def draw_split(split: str, count: int, size: int, seed: int, *, captions: bool) -> ImageDataset:
    """Draw the images of one split, a chunk at a time to limit the use of memory."""
    stream = UINT64_MAX - (1 if split == "train" else 2)
    # a float64 between 0 and 1 holds 53 random bits
    uniform = (raw_bits(count * DRAWS, seed, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    columns = uniform.reshape(count, DRAWS)
    labels = np.arange(count) % len(SHAPES)
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = draw(labels[part], Draws(columns[part]), size)
    return ImageDataset(
        images=torch.from_numpy(images),
        ids=torch.arange(count),
        labels=torch.from_numpy(labels),
        classes=tuple(SHAPES),
        names=tuple(f"{split}/{index:06d}" for index in range(count)),
        source=f"shapes ({split})",
        captions=tuple((text,) for text in captions_of(labels, Draws(columns))) if captions else None,
    )


def captions_of(labels: npt.NDArray[np.int64], draws: Draws) -> tuple[str, ...]:
    """Return a caption for each image that `draw` makes of the same numbers."""
    kinds = list(SHAPES)
    radius, x, y, _ = (column[:, 0, 0] for column in place(draws))
    _, figure = paint(draws)
    rgb = np.clip(figure[:, 0, 0], 0, 1)
    return describe([kinds[label] for label in labels], radius, RADIUS, x, y, rgb)


class Draws:
    """Uniform random numbers, handed out one column at a time: one number for each image."""

    def __init__(self, uniform: Array) -> None:
        """Keep the numbers, float64 ``[n, DRAWS]`` in [0, 1)."""
        self._columns = iter(uniform.T)

    def between(self, low: float, high: float) -> Array:
        """Return the next column scaled to [low, high), shaped ``[n, 1, 1]`` to meet a grid of pixels."""
        column: Array = low + next(self._columns) * (high - low)
        return column[:, None, None]

    def colour(self, low: float, high: float) -> Array:
        """Return a colour for each image, ``[n, 1, 1, 3]``, its channels drawn from [low, high)."""
        return np.stack([self.between(low, high) for _ in range(3)], axis=-1)


def draw(labels: npt.NDArray[np.int64], draws: Draws, size: int) -> npt.NDArray[np.uint8]:
    """Return one image for each label, uint8 ``[n, size, size, 3]``."""
    grid = (np.arange(size) + 0.5) / size
    grid_x, grid_y = grid[None, None, :], grid[None, :, None]
    cover = coverage(labels, place(draws), grid_x, grid_y)[..., None]
    ground, figure = paint(draws)

    ground = ground + TEXTURE * texture(draws, grid_x, grid_y)[..., None] * draws.colour(0.5, 1.5)
    figure = figure + 0.5 * TEXTURE * texture(draws, grid_x, grid_y)[..., None]
    mixed = np.clip(ground + cover * (figure - ground), 0, 1)
    images: npt.NDArray[np.uint8] = (mixed * 255 + 0.5).astype(np.uint8)
    return images


def paint(draws: Draws) -> tuple[Array, Array]:
    """Return the colours of the ground and of the shape, each ``[n, 1, 1, 3]``; the latter may leave [0, 1]."""
    ground = draws.colour(0.25, 0.75)
    luma = (ground @ LUMA)[..., None]
    step = draws.between(*CONTRAST)[..., None] * np.sign(draws.between(-1, 1))[..., None]
    # where the shape would be too dark or too bright, its contrast is reversed
    step = np.where((luma + step < 0.1) | (luma + step > 0.9), -step, step)
    tint = draws.colour(-0.3, 0.3)
    return ground, luma + step + tint - (tint @ LUMA)[..., None]


def place(draws: Draws) -> tuple[Array, Array, Array, Array]:
    """Return radius, x and y of the middle, and angle of each shape, ``[n, 1, 1]``; the image has sides of 1."""
    radius = draws.between(*RADIUS)
    margin = 0.9 * radius
    center_x, center_y = (margin + draws.between(0, 1) * (1 - 2 * margin) for _ in range(2))
    return radius, center_x, center_y, draws.between(0, 2 * math.pi)


def coverage(
    labels: npt.NDArray[np.int64], placed: tuple[Array, Array, Array, Array], grid_x: Array, grid_y: Array
) -> Array:
    """Return how much of each pixel the shape covers, ``[n, size, size]`` between 0 and 1."""
    radius, center_x, center_y, angle = placed
    right, down = (grid_x - center_x) / radius, (grid_y - center_y) / radius
    x = right * np.cos(angle) + down * np.sin(angle)
    y = down * np.cos(angle) - right * np.sin(angle)
    distance = np.empty_like(x)
    for label, shape in enumerate(SHAPES.values()):
        rows = labels == label
        distance[rows] = shape(x[rows], y[rows])
    pixels: Array = distance * radius * grid_x.size
    return np.clip(0.5 - pixels, 0, 1)


def texture(draws: Draws, grid_x: Array, grid_y: Array) -> Array:
    """Return a pattern for each image, ``[n, size, size]`` between -1 and 1: gradient, stripes, checks or waves."""
    kind, angle = draws.between(0, 4), draws.between(0, 2 * math.pi)
    frequency = draws.between(4 * math.pi, 12 * math.pi)
    along = grid_x * np.cos(angle) + grid_y * np.sin(angle)
    across = grid_y * np.cos(angle) - grid_x * np.sin(angle)
    wave = np.sin(frequency * along + draws.between(0, 2 * math.pi))
    other = np.sin(frequency * across + draws.between(0, 2 * math.pi))
    middle = (np.cos(angle) + np.sin(angle)) / 2
    patterns = [(along - middle) * 1.6, 3 * wave, 3 * wave * other, (wave + other) / 2]
    chosen: Array = np.select([kind < 1, kind < 2, kind < 3], patterns[:3], patterns[3])
    return np.clip(chosen, -1, 1)
