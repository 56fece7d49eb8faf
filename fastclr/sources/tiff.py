"""TIFF files that Pillow does not read in full: more than four samples of a pixel, or colours of more than 8 bits."""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastclr.sources.packages import needed
from fastclr.sources.reading import MAX_CHANNELS, Values

MARKS = {b"II*\0": "little", b"MM\0*": "big"}
SHORT, LONG = 3, 4
WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES = 256, 257, 258, 259, 277
MAX_ENTRIES = 512
# none, LZW, deflate (two numbers), PackBits: of these the decoder is told how long the result is
COMPRESSIONS = (1, 5, 8, 32946, 32773)
SILENT = logging.NullHandler()  # without a handler, Python prints warnings
MAX_VALUES = 2**28  # values of an image


@dataclass(frozen=True)
class TiffHeader:
    """What the first directory of a TIFF says of its image.

    Args:
        height: in pixels.
        width: in pixels.
        samples: values of a pixel.
        bits: of a value.
    """

    height: int
    width: int
    samples: int
    bits: int

    @property
    def beyond_pillow(self) -> bool:
        """Whether Pillow reads it not at all."""
        return self.samples == 2 or self.samples > 4 or (self.samples == 4 and self.bits > 8)

    @property
    def deep_colour(self) -> bool:
        """Whether Pillow keeps 8 bits of each value only."""
        return self.samples > 1 and self.bits > 8


def tiff_header(data: bytes) -> TiffHeader | None:
    """Return what a TIFF says of its first image; None if it is none, or its directory is not in ``data``."""
    order: Any = MARKS.get(data[:4])
    if order is None:
        return None

    def number(start: int, size: int) -> int:
        if start < 0 or start + size > len(data):
            raise ValueError
        return int.from_bytes(data[start : start + size], order)

    found = {SAMPLES: 1, BITS: 1}
    try:
        first = number(4, 4)
        for entry in range(first + 2, first + 2 + 12 * min(number(first, 2), MAX_ENTRIES), 12):
            tag, kind, count = number(entry, 2), number(entry + 2, 2), number(entry + 4, 4)
            if tag not in (WIDTH, HEIGHT, BITS, SAMPLES) or kind not in (SHORT, LONG) or count < 1:
                continue
            size = 2 if kind == SHORT else 4
            place = entry + 8 if size * count <= 4 else number(entry + 8, 4)
            found[tag] = number(place, size)
        return TiffHeader(found[HEIGHT], found[WIDTH], found[SAMPLES], found[BITS])
    except (ValueError, KeyError):
        return None


def tiff_values(data: bytes) -> Values:
    """Return the values of the first image of a TIFF, ``[H, W, C]``, by tifffile.

    Raises:
        ValueError: it is damaged, or of a kind that is not read.
        ModuleNotFoundError: tifffile is not installed.
        Exception: whatever tifffile raises for a damaged file.
    """
    tifffile = needed(
        "tifffile", "reading TIFF files of many bands, or of colours of 16 bits, needs tifffile", "scientific"
    )
    # its remarks do not name the file; whoever wants them can still ask for them
    logging.getLogger("tifffile").addHandler(SILENT)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        samples, compression, kind = int(page.samplesperpixel), int(page.compression), page.dtype
        shape = (int(page.imagelength), int(page.imagewidth))
        if compression not in COMPRESSIONS:
            raise ValueError(
                f"a TIFF of {samples} samples of compression {compression} is not read: use deflate or LZW"
            )
        if compression != 1:
            needed("imagecodecs", "reading compressed TIFF files of many bands needs imagecodecs", "scientific")
        if kind is None or kind.kind not in "uif":
            raise ValueError(f"a TIFF of {kind} is not read")
        if samples > MAX_CHANNELS or min(*shape, samples) < 1 or math.prod(shape) * samples > MAX_VALUES:
            raise ValueError(f"a TIFF of {shape[0]} x {shape[1]} x {samples} values is not read")
        values = np.asarray(page.asarray())
    planar = samples > 1 and values.ndim == 3 and values.shape == (samples, *shape)
    if planar and int(page.planarconfig) == 2:
        values = np.moveaxis(values, 0, -1)
    if values.size != math.prod(shape) * samples:
        raise ValueError(f"a TIFF that says it has {shape[0]} x {shape[1]} x {samples} values has {values.size}")
    return values.reshape(*shape, samples)
