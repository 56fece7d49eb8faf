"""One image in a ``.npy`` file: its header, and its values."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastclr.sources.reading import MAX_CHANNELS, ChannelAxis, Reading, Values

MAGIC = b"\x93NUMPY"
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
KINDS = "uif"  # integers with and without a sign, floats


@dataclass(frozen=True)
class ArrayHeader:
    """What a ``.npy`` file says of its array: shape, order, type, and where the values begin."""

    shape: tuple[int, ...]
    by_columns: bool
    kind: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        """Number of bytes of the values."""
        return math.prod(self.shape) * self.kind.itemsize


def array_header(data: bytes) -> ArrayHeader:
    """Return what the beginning of a ``.npy`` file says.

    Raises:
        ValueError: it is damaged, or holds no numbers.
    """
    file = io.BytesIO(data)
    try:
        shape, by_columns, kind = READERS[np.lib.format.read_magic(file)](file, max_header_size=2**14)
    except Exception as error:  # NumPy raises many types for a damaged header
        raise ValueError(f"no array in version 1.0 or 2.0 of NumPy's format: {' '.join(str(error).split())}") from error
    if kind.kind not in KINDS or kind.hasobject or min(shape, default=1) < 1:
        raise ValueError(f"an array of {kind} {list(shape)} is no image")
    return ArrayHeader(tuple(shape), by_columns, kind, file.tell())


def channel_axis(shape: tuple[int, ...], axis: ChannelAxis, channels: int) -> int | None:
    """Return which axis of an image holds the channels, 0 or 2; None where there is none, in ``[H, W]``.

    With ``auto`` the axis is the one whose length is the number of channels of the run; where that does not tell, the
    one that is short enough to be channels at all.

    Raises:
        ValueError: the shape is that of no image, or both ends may be the channels.
    """
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise ValueError(f"an array {list(shape)} is no image: it must be [H, W], [H, W, C] or [C, H, W]")
    if axis != "auto":
        return 0 if axis == "first" else 2
    for wanted in ({channels}, {1} if channels == 3 else set(), set(range(1, MAX_CHANNELS + 1))):
        fits = [place for place in (0, 2) if shape[place] in wanted]
        if len(fits) == 2:
            raise ValueError(
                f"an array {list(shape)} may be [H, W, C] or [C, H, W]: say --channel-axis last or --channel-axis first"
            )
        if fits:
            return fits[0]
    raise ValueError(f"an array {list(shape)} has no axis of 1 to {MAX_CHANNELS} channels")


def image_shape(header: ArrayHeader, reading: Reading) -> tuple[int, int, int]:
    """Return height, width and number of channels."""
    shape = header.shape
    axis = channel_axis(shape, reading.channel_axis, reading.channels)
    if axis is None:
        return shape[0], shape[1], 1
    return (shape[1], shape[2], shape[0]) if axis == 0 else (shape[0], shape[1], shape[2])


def array_values(data: bytes, reading: Reading) -> Values:
    """Return the values of an image, ``[H, W, C]``, without a copy.

    Raises:
        ValueError: the file is damaged or ends early, or the array is no image.
    """
    header = array_header(data)
    if header.nbytes > len(data) - header.start:
        raise ValueError(f"an array {list(header.shape)} of {header.kind}, which its {len(data)} bytes do not hold")
    flat = np.frombuffer(data, header.kind, math.prod(header.shape), header.start)
    values: Values = flat.reshape(header.shape, order="F" if header.by_columns else "C")
    axis = channel_axis(header.shape, reading.channel_axis, reading.channels)
    if axis is None:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if axis == 0 else values
