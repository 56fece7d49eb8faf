"""What the header of an encoded image says, without decoding it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastclr.data.decode import FORMATS, ORIENTATION, decode_image, pillow
from fastclr.data.storage import Storage

if TYPE_CHECKING:
    from PIL.Image import Image

HEAD_BYTES = 32768  # holds the header of nearly all files; of the others, more is read
END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    Args:
        height: pixels of the image; a JPEG's after it is turned as its EXIF orientation asks.
        width: likewise.
        plain: it is a JPEG with grey or YCbCr pixels, which all decoders decode alike.
        size: bytes of the encoded image.
    """

    height: int
    width: int
    plain: bool
    size: int


def read_header(storage: Storage, row: int) -> Header:
    """Return what the header of an image says.

    A JPEG that does not end with its end marker is decoded once, to see whether it is cut short.

    Raises:
        OSError: the image cannot be read, is of no known format, or ends early.
        PIL.Image.DecompressionBombError: the header announces more pixels than Pillow admits (about 179 million).
        Exception: whatever else Pillow raises for a damaged header.
    """
    head, tail, size = storage.read_ends(row, HEAD_BYTES, len(END_OF_IMAGE))
    bomb: type[Exception] = pillow().DecompressionBombError
    try:
        header = parse(head, size)
    except bomb:
        raise
    except Exception:
        if size <= len(head):
            raise
        header = parse(storage.read(row), size)
    if head.startswith(b"\xff\xd8") and tail != END_OF_IMAGE:
        decode_image(storage.read(row))
    return header


def parse(data: bytes, size: int) -> Header:
    """Return the header of the image of ``size`` bytes that begins with ``data``."""
    with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
        height, width = image.height, image.width
        # asking other formats for their orientation may decode them
        if image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            height, width = width, height
        return Header(height, width, is_plain(image), size)


def is_plain(image: Image) -> bool:
    """Return whether a JPEG is grey or YCbCr, as nearly all are, and not RGB, CMYK or something rarer."""
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return False
    components = bytes(layer[0] for layer in getattr(image, "layer", ()))
    return components != b"RGB" and (image.mode == "L" or image.info.get("adobe_transform", 1) == 1)
