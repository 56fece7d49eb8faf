"""Captions of the built-in shapes, such as "small red star, top left", from the numbers by which they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SIZES = ("small", "medium", "large")
GREY = "grey"
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
CENTRE = "centre"

# difference of the strongest and the weakest channel below which a colour has no name
LEAST_CHROMA = 0.12
# part of the image, about its middle, that counts as neither left nor right, neither top nor bottom
MIDDLE = (0.45, 0.55)


def describe(
    kinds: Sequence[str], radius: Array, radii: tuple[float, float], x: Array, y: Array, rgb: Array
) -> tuple[str, ...]:
    """Return a caption for each of n shapes: size, colour, kind and place.

    Args:
        kinds: their names.
        radius: float64 ``[n]``.
        radii: the range from which it was drawn; each third of it has a word.
        x: of the middle, float64 ``[n]``, from 0 at the left to 1 at the right.
        y: likewise, from 0 at the top to 1 at the bottom.
        rgb: colour, float64 ``[n, 3]`` between 0 and 1.
    """
    low, high = radii
    thirds = np.clip((radius - low) / (high - low) * 3, 0, 2).astype(int)
    across, down = np.searchsorted(MIDDLE, x), np.searchsorted(MIDDLE, y)
    return tuple(
        f"{SIZES[third]} {colour} {kind}, {' '.join(filter(None, (ROWS[row], COLUMNS[column]))) or CENTRE}"
        for third, colour, kind, row, column in zip(thirds, colours(rgb), kinds, down, across, strict=True)
    )


def colours(rgb: Array) -> list[str]:
    """Return a name for each colour, float64 ``[n, 3]``: that of the nearest of six hues, or grey."""
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    chroma = np.maximum(high - low, 1e-12)
    red, green, blue = ((high - channel) / chroma for channel in rgb.T)
    strongest = rgb.argmax(axis=1)
    # the hue of HSV, in sixths of the circle
    hue = np.choose(strongest, [blue - green, 2 + red - blue, 4 + green - red])
    sixth = np.rint(hue).astype(int) % 6
    return [GREY if high[i] - low[i] < LEAST_CHROMA else HUES[sixth[i]] for i in range(len(rgb))]
