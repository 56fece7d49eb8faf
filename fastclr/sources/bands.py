"""The values of an image that Pillow opened, as the file stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastclr.sources.reading import Interval, Raw, Values

if TYPE_CHECKING:
    from PIL.Image import Image

TIFF_KIND, SIGNED = 339, 2  # tag of how its numbers are stored
WIDENED = ("PNG", "PPM", "JPEG2000")  # formats whose 16 bits without a sign Pillow may hold in 32


def load(image: Image) -> None:
    """Load the pixels of an image; its `info` keeps the largest value that a PPM of more than 8 bits states."""
    tiles = getattr(image, "tile", []) if image.format == "PPM" and image.mode in ("I", "RGB") else []
    if tiles and isinstance(tiles[0][3], tuple) and int(tiles[0][3][-1]) > 255:
        image.info["maxval"] = int(tiles[0][3][-1])
    image.load()


def is_deep(image: Image) -> bool:
    """Return whether an image that was opened has values of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def raw_values(image: Image) -> Raw:
    """Return the values of a loaded image, each of its bands a channel; a palette is looked up."""
    if is_deep(image):
        # Pillow would clip 16-bit values at 255
        return Raw(*deep_band(image))
    bands = np.asarray(image.convert("RGB") if image.mode in ("P", "PA") else image, dtype=np.uint8)
    if image.mode == "1":
        bands = bands * np.uint8(255)
    return Raw(bands.reshape(image.height, image.width, -1), (0.0, 255.0))


def deep_band(image: Image) -> tuple[Values, Interval | None]:
    """Return the values of an image of more than 8 bits, and the ends of their type if these are known."""
    if image.mode == "I" and "maxval" in image.info:  # Pillow has stretched them to 65535
        stored = np.array(image, dtype=np.uint32)[..., None]
        stored *= image.info["maxval"]
        stored += 32767
        stored //= 65535
        return stored, (0.0, float(image.info["maxval"]))
    values: Values = np.asarray(image)[..., None]
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDENED):
        return values, (0.0, 65535.0)
    if image.mode == "I" and image.format == "TIFF" and getattr(image, "tag_v2", {}).get(TIFF_KIND, (1,))[0] != SIGNED:
        return values.view(np.uint32), None  # Pillow knows no such type
    return values, None
