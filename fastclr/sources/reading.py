"""How images of any depth and number of channels become bytes: what is asked for, and the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Interval = tuple[float, float]
RangeChoice = Interval | Literal["auto", "file"]
ChannelAxis = Literal["auto", "first", "last"]
Pages = Literal["first", "channels"]

MAX_CHANNELS = 16
STRIP = 2**16  # values that are scaled at a time
CHANNELS_FLAG = "--channel"  # in every refusal for the channels of an image, by which it is known


@dataclass(frozen=True)
class Reading:
    """How an encoded image becomes uint8 ``[H, W, C]``.

    Args:
        channels: C. Pictures become RGB for 3 and grey for 1; otherwise the image must have so many.
        range: the values that become 0 and 255, of images of more than 8 bits: a pair, or ``file`` for the smallest and
            the largest value of each file. None: the full range of the type, where that is known. ``auto`` is to be
            replaced by a pair before anything is decoded.
        channel_axis: where an array has its channels; ``auto`` is where only one place fits.
        pages: which images of a file of several are read: the ``first``, or all, one for each of the ``channels``.

    Raises:
        ValueError: a value is out of range.
    """

    channels: int = 3
    range: RangeChoice | None = None
    channel_axis: ChannelAxis = "auto"
    pages: Pages = "first"

    def __post_init__(self) -> None:
        """Check the values."""
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be 1 to {MAX_CHANNELS}, got {self.channels}")
        if not is_range(self.range):
            raise ValueError(f"range must be {RANGE_HELP}, got {self.range!r}")

    def within(self, interval: Interval | None) -> Reading:
        """Return the same with the range that ``auto`` was found to be; None where no image needs one."""
        return replace(self, range=interval) if self.range == "auto" else self


RANGE_HELP = "LO HI with LO below HI, auto, or file"


def is_range(value: object) -> bool:
    """Tell whether this is a range, or None."""
    if isinstance(value, tuple) and len(value) == 2:
        return all(isinstance(x, (int, float)) and abs(x) < 1e300 for x in value) and value[0] < value[1]
    return value in (None, "auto", "file")


AS_RGB = Reading()


@dataclass(frozen=True)
class Raw:
    """The values of an image as they are stored.

    Args:
        values: ``[H, W, C]``.
        full: smallest and largest value that the image may have, in the unit that `slope` and `intercept` give; None
            where that is unknown.
        slope: factor from stored values to the unit of ranges.
        intercept: added to that.
        inverted: whether the largest value is black.
    """

    values: Values
    full: Interval | None
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False

    def extremes(self) -> Interval:
        """Return the smallest and the largest value; (0, 0) where none is finite."""
        values = self.values
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size == 0:
            return 0.0, 0.0
        ends = [float(value) * self.slope + self.intercept for value in (values.min(), values.max())]
        return min(ends), max(ends)


def full_range(kind: np.dtype[Any]) -> Interval | None:
    """Return the smallest and the largest value of a type of 8 or 16 bits without a sign; None for all others."""
    if kind.kind == "u" and kind.itemsize <= 2:
        return 0.0, float(2 ** (8 * kind.itemsize) - 1)
    return None


def interval_of(raw: Raw, choice: RangeChoice | None) -> Interval:
    """Return the values that become 0 and 255.

    Raises:
        ValueError: nobody knows them.
    """
    if isinstance(choice, tuple):
        return choice
    if choice == "auto":
        raise ValueError("range auto must be found from the training images first: say --range LO HI or file")
    if choice == "file":
        return raw.extremes()
    if raw.full is not None:
        return raw.full
    low, high = raw.extremes()
    if raw.values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    raise ValueError(
        f"pixels of {raw.values.dtype}, here {low:g} to {high:g}, have no known range: say --range LO HI, auto or file"
    )


def to_bytes(raw: Raw, choice: RangeChoice | None) -> Pixels:
    """Return the values as bytes: the range becomes 0 to 255, rounded to nearest, and what lies outside is clipped.

    NaN and images of a single value in their own range become 0.
    """
    values = raw.values
    if values.dtype == np.uint8 and not raw.inverted and raw.slope == 1 and raw.intercept == 0:
        return values
    low, high = interval_of(raw, choice)
    # a width of 0 is that of a flat image in its own range
    factor = 255.0 / (high - low) if high > low else 0.0
    pixels = np.empty(values.shape, dtype=np.uint8)
    rows = max(STRIP // max(values.shape[1] * values.shape[2], 1), 1)
    for top in range(0, len(values), rows):
        part = values[top : top + rows].astype(np.float64)
        # the difference is taken first, so that it is exact where the numbers are integers
        scaled = np.clip((part * raw.slope + (raw.intercept - low)) * factor, 0.0, 255.0)
        scaled[np.isnan(scaled)] = 0.0
        part_pixels = np.floor(scaled + 0.5).astype(np.uint8)
        pixels[top : top + rows] = 255 - part_pixels if raw.inverted else part_pixels
    return pixels


def fit_channels(pixels: Pixels, channels: int) -> Pixels:
    """Return an image of as many channels as are asked for; a grey one is repeated to be RGB.

    Raises:
        ValueError: it has another number of them.
    """
    found = pixels.shape[2]
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    check_channels(found, channels)
    return pixels


def check_channels(found: int, channels: int) -> None:
    """Raise a ValueError unless an image of ``found`` channels can be one of ``channels``."""
    if found != channels and not (found == 1 and channels == 3):
        raise ValueError(f"it has {found} channel(s), and the run has {channels}: --channels {found} reads it")


def deep_bytes(height: int, width: int, channels: int, itemsize: int) -> int:
    """Return how many bytes it takes at most to decode values of a size to bytes, beside the encoded image."""
    return height * width * channels * (2 * itemsize + 2) + 40 * max(STRIP, width * channels)
