"""Read the header of one encoded image, or decode it to RGB pixels, with Pillow."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastclr.sources import jpeg
from fastclr.sources.byte_ranges import HEAD_BYTES, Storage
from fastclr.sources.packages import needed
from fastclr.sources.remarks import quiet_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

# the usual formats of photos; without a list, Pillow also tries formats that run other programs (EPS: Ghostscript)
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
# and those whose plugin is there; `pillow` adds them
PLUGINS = {"AVIF": "PIL.AvifImagePlugin", "JPEG2000": "PIL.Jpeg2KImagePlugin", "HEIF": "pillow_heif"}
USUAL = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (*USUAL, ".jpe", ".jfif", ".avif", ".jp2", ".j2k", ".heic", ".heif")
ORIENTATION = 0x0112  # EXIF tag
STRIP = 2**16  # pixels that are converted at a time
# bytes that decoding takes for each pixel at most, beside the result: 4 of Pillow's, and what the library holds
DECODING_BYTES = {"WEBP": 21}
OTHER_DECODING_BYTES = 9


def pillow() -> ModuleType:
    """Return the module ``PIL.Image``.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
    """
    image: ModuleType = needed("PIL.Image", "reading images needs Pillow")
    add_plugins()
    return image


@cache
def add_plugins() -> None:
    """Add the formats of the plugins that are installed to `FORMATS`, once."""
    for name, module in PLUGINS.items():
        try:
            plugin = importlib.import_module(module)
        except ImportError:
            continue
        if name == "HEIF":
            plugin.register_heif_opener()
        FORMATS.append(name)


def is_image_name(name: str) -> bool:
    """Return whether the suffix of ``name`` is that of an image file."""
    return name.lower().endswith(SUFFIXES)


def image_size(file: Path | IO[bytes]) -> tuple[int, int] | None:
    """Return height and width in pixels as the header states them, or None if it cannot be read."""
    try:
        with quiet_pillow(), pillow().open(file, formats=FORMATS) as image:
            return image.height, image.width
    except ModuleNotFoundError:
        raise
    except Exception:
        return None


def resized(height: int, width: int, resize_shorter: int | None) -> tuple[int, int]:
    """Return height and width once the shorter side is reduced to ``resize_shorter``; it is never enlarged."""
    shorter = min(height, width)
    if resize_shorter is None or shorter <= resize_shorter:
        return height, width
    return round(height * resize_shorter / shorter), round(width * resize_shorter / shorter)


def decode_image(data: bytes | Path, resize_shorter: int | None = None) -> Pixels:
    """Decode an image to RGB, uint8 ``[H, W, 3]``.

    The EXIF orientation is applied. Grey, palette, CMYK and bilevel images are converted, 16-bit grey is scaled by
    255 / 65535, and an alpha channel is dropped. Of an animation, the first frame is taken.

    Args:
        data: the encoded file, or its path.
        resize_shorter: reduce the shorter side to this many pixels (bilinear, antialiased); None keeps the size.

    Raises:
        OSError: the file cannot be read, is not an image of a known format, or ends early.
        ValueError: the pixels are floating-point numbers, whose range is unknown.
        PIL.Image.DecompressionBombError: the header announces more pixels than Pillow allows (about 179 million).
        Exception: whatever else Pillow raises for a damaged file.
    """
    with pillow().open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as image:
        height, width = resized(image.height, image.width, resize_shorter)
        if (height, width) != image.size[::-1]:
            # decodes a JPEG at 1/2, 1/4 or 1/8 where that is still at least the size asked for
            image.draft(image.mode, (width, height))
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)  # after loading, because Pillow rotates a TIFF itself
        return np.ascontiguousarray(upright(to_pixels(image, (width, height)), orientation))


def pixels_of(image: Image, resize_shorter: int | None = None) -> Pixels:
    """Return an image of Pillow's as :func:`decode_image` does, but as it is: no orientation is applied."""
    height, width = resized(image.height, image.width, resize_shorter)
    image.load()
    return to_pixels(image, (width, height))


def to_pixels(image: Image, size: tuple[int, int]) -> Pixels:
    """Return the pixels of a loaded image in a size, converted to RGB in strips, so that no second copy is made."""
    if image.size != size:
        image = to_rgb(image).resize(size, pillow().Resampling.BILINEAR)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(to_rgb(strip), dtype=np.uint8)
    return pixels


def decoding_bytes(data: bytes, resize_shorter: int | None = None) -> int | None:
    """Return how many bytes :func:`decode_image` takes at most, or None if `data` does not say how large the image is.

    Args:
        data: the encoded image, or its beginning.
        resize_shorter: as it will be decoded.
    """
    try:
        with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
            return bytes_to_decode(image, resize_shorter)
    except Exception:
        return None


def bytes_to_decode(image: Image, resize_shorter: int | None) -> int:
    """Return how many bytes it takes to decode an image that was opened; its reduced size is chosen on the way."""
    whole = image.height * image.width
    height, width = resized(image.height, image.width, resize_shorter)
    coefficients = 6 * whole if "progressive" in image.info else 0
    if (height, width) != image.size[::-1]:
        image.draft(image.mode, (width, height))
    per_pixel = DECODING_BYTES.get(image.format or "", OTHER_DECODING_BYTES)
    return int(coefficients + per_pixel * image.height * image.width + 3 * height * width)


def explain(error: Exception) -> str:
    """Return the reason why a file could not be decoded, in a few words on one line."""
    if isinstance(error, pillow().UnidentifiedImageError):
        return "no image of a known format"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def decode_named(path: Path, resize_shorter: int | None = None) -> Pixels:
    """Decode a file that somebody has named; see :func:`decode_image`.

    Raises:
        ValueError: it cannot be read; the message names it.
        ModuleNotFoundError: Pillow is not installed.
    """
    pillow()
    try:
        with quiet_pillow():
            return decode_image(path, resize_shorter)
    except Exception as error:  # Pillow raises many types for a damaged file
        raise ValueError(f"{str(path)!a} cannot be read: {explain(error)}") from error


def to_rgb(image: Image) -> Image:
    """Return ``image`` as 8-bit RGB.

    Raises:
        ValueError: the pixels are floating-point numbers.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        converted: Image = pillow().fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        return converted.convert("RGB")
    return image.convert("RGB")


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return ``pixels`` ``[H, W, 3]`` rotated or flipped by EXIF orientation 1 to 8; other values change nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    Args:
        height: in pixels; for a JPEG, after its EXIF orientation is applied.
        width: likewise.
        plain: whether it is, down to its first scan, a JPEG that all decoders decode alike.
        size: number of bytes of the encoded image.
        needed: number of bytes that reading and decoding it take at most.
    """

    height: int
    width: int
    plain: bool
    size: int
    needed: int


def glance(storage: Storage, row: int, resize_shorter: int | None = None) -> Header | None:
    """Return what the first bytes of an image say, or None where :func:`examine` has to see the whole file.

    That is where they say nothing, and where a JPEG is of an odd structure or has no end marker at its end.

    Raises:
        OSError: the image cannot be read.
        Exception: whatever Pillow raises for a damaged header of a file that is short.
    """
    data, tail, size = storage.read_ends(row, HEAD_BYTES, len(jpeg.END))
    try:
        header = parse(data, size, resize_shorter)
    except Exception:
        if size <= len(data):
            raise
        return None
    return header if is_whole(header, data, tail) else None


def examine(data: bytes, resize_shorter: int | None = None) -> Header:
    """Return what an image says of itself, once it is decoded if it is a JPEG of an odd structure or without an end.

    Raises:
        OSError: it is in no known format, or ends early.
        PIL.Image.DecompressionBombError: the header announces more pixels than Pillow allows (about 179 million).
        Exception: whatever else Pillow raises for a damaged file.
    """
    header = parse(data, len(data), resize_shorter)
    if not is_whole(header, data, data[-len(jpeg.END) :]):
        decode_image(data, resize_shorter)
    return header


def is_whole(header: Header, head: bytes, tail: bytes) -> bool:
    """Return whether an image is no JPEG, or one that looks regular by its first and last bytes."""
    return not head.startswith(jpeg.START) or (header.plain and tail == jpeg.END)


def parse(data: bytes, size: int, resize_shorter: int | None = None) -> Header:
    """Return the header of the image of ``size`` bytes that begins with ``data``."""
    with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
        height, width = image.height, image.width
        # only JPEG: for other formats, reading the orientation may decode the image
        if image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            height, width = width, height
        plain = image.format == "JPEG" and is_plain(data)
        return Header(height, width, plain, size, size + bytes_to_decode(image, resize_shorter))


def is_plain(data: bytes) -> bool:
    """Return whether a file that begins with `data` is, down to its first scan, a regular JPEG."""
    try:
        jpeg.read_structure(data, whole=False)
    except jpeg.IrregularError:
        return False
    return True
