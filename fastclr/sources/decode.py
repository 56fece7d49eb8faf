"""Read the header of one encoded image, or decode it to bytes: with Pillow, or by `deep` where Pillow does not."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

import numpy as np

from fastclr.sources import deep, jpeg
from fastclr.sources.bands import is_deep, load, raw_values
from fastclr.sources.byte_ranges import HEAD_BYTES, Storage
from fastclr.sources.packages import needed
from fastclr.sources.reading import AS_RGB, Pixels, Raw, Reading, Values, check_channels, fit_channels, to_bytes
from fastclr.sources.remarks import quiet_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

# the usual formats of photos; without a list, Pillow also tries formats that run other programs (EPS: Ghostscript)
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
# and those whose plugin is there; `pillow` adds them
PLUGINS = {"AVIF": "PIL.AvifImagePlugin", "JPEG2000": "PIL.Jpeg2KImagePlugin", "HEIF": "pillow_heif"}
USUAL = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (*USUAL, ".jpe", ".jfif", ".avif", ".jp2", ".j2k", ".heic", ".heif", ".dcm")
ARRAYS = (".npy",)
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


def image_names(names: Iterable[str]) -> list[str]:
    """Return the files that are images by their suffix; arrays are images where there are no others."""
    pictures, arrays = [], []
    for name in names:
        if is_image_name(name):
            pictures.append(name)
        elif name.lower().endswith(ARRAYS):
            arrays.append(name)
    return pictures or arrays


def image_size(file: Path | IO[bytes]) -> tuple[int, int] | None:
    """Return height and width in pixels as the header states them, or None if it cannot be read."""
    try:
        if (size := deep.stated_size(beginning(file))) is not None:
            return size
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


def beginning(file: Path | IO[bytes]) -> bytes:
    """Return the first bytes of a file, in which it still stands where it did."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def decode_image(data: bytes | Path, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Pixels:
    """Decode an image to uint8 ``[H, W, C]``, RGB unless `reading` says otherwise.

    The EXIF orientation is applied. Grey, palette, CMYK and bilevel images are converted, deeper ones are scaled by the
    range of `reading`, 16-bit grey without a sign by 255 / 65535 without one, and an alpha channel is dropped.
    Of an animation, the first frame is taken.

    Args:
        data: the encoded file, or its path.
        resize_shorter: reduce the shorter side to this many pixels (bilinear, antialiased); None keeps the size.
        reading: number of channels, and what becomes of more than 8 bits.

    Raises:
        OSError: the file cannot be read, is not an image of a known format, or ends early.
        ValueError: the range of its values is unknown, or it has another number of channels.
        ModuleNotFoundError: a package is not installed that its format needs.
        PIL.Image.DecompressionBombError: the header announces more pixels than Pillow allows (about 179 million).
        Exception: whatever else Pillow raises for a damaged file.
    """
    if isinstance(data, Path) and deep.may_be(beginning(data)):
        data = data.read_bytes()
    if isinstance(data, bytes) and (raw := deep.read(data, reading)) is not None:
        return reduced(fit_channels(to_bytes(raw, reading.range), reading.channels), resize_shorter)
    with pillow().open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as image:
        height, width = resized(image.height, image.width, resize_shorter)
        if (height, width) != image.size[::-1]:
            # decodes a JPEG at 1/2, 1/4 or 1/8 where that is still at least the size asked for
            image.draft(image.mode, (width, height))
        load(image)
        orientation = image.getexif().get(ORIENTATION, 1)  # after loading, because Pillow rotates a TIFF itself
        return np.ascontiguousarray(upright(to_pixels(image, (width, height), reading), orientation))


def pixels_of(image: Image, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Pixels:
    """Return an image of Pillow's as :func:`decode_image` does, but as it is: no orientation is applied."""
    height, width = resized(image.height, image.width, resize_shorter)
    load(image)
    return to_pixels(image, (width, height), reading)


def to_pixels(image: Image, size: tuple[int, int], reading: Reading) -> Pixels:
    """Return the pixels of a loaded image in a size; RGB and grey are converted in strips, without a second copy."""
    if reading.pages == "channels" and getattr(image, "n_frames", 1) > 1:
        return reduced(pages_of(image, reading), min(size))
    if image.mode == "RGB" and "maxval" in image.info and reading.range is not None:
        raise ValueError("of a PPM with colours of 16 bits Pillow keeps 8, so no range applies: store TIFF or .npy")
    if is_deep(image) or reading.channels not in (1, 3):
        values = fit_channels(to_bytes(raw_values(image), reading.range), reading.channels)
        return reduced(values, min(size))
    mode = "RGB" if reading.channels == 3 else "L"
    if image.size != size:
        image = image.convert(mode).resize(size, pillow().Resampling.BILINEAR)
    pixels = np.empty((image.height, image.width, reading.channels), dtype=np.uint8)
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert(mode)
        pixels[top : top + rows] = np.asarray(strip, dtype=np.uint8).reshape(strip.height, strip.width, -1)
    return pixels


def pages_of(image: Image, reading: Reading) -> Pixels:
    """Return the pages of a file as the channels of one image.

    Raises:
        ValueError: they are not as many as the channels, or not grey images of one size and depth.
    """
    count: int = getattr(image, "n_frames", 1)
    check_channels(count, reading.channels)
    pages: list[Values] = []
    for number in range(count):
        image.seek(number)
        load(image)
        page = raw_values(image)
        if page.values.shape[2] != 1:
            raise ValueError(f"page {number} has {page.values.shape[2]} bands, and pages are channels: it must be grey")
        if number and (page.values.shape, page.values.dtype) != (pages[0].shape, pages[0].dtype):
            raise ValueError(f"page {number} is {page.values.shape[:2]} of {page.values.dtype}, unlike the first one")
        pages.append(page.values)
    return to_bytes(Raw(np.concatenate(pages, axis=2), page.full), reading.range)


def deep_values(data: bytes, reading: Reading) -> Raw | None:
    """Return the values of an image of more than 8 bits as they are stored, of its first page; None for all others.

    Raises:
        Exception: as `decode_image`.
    """
    raw = deep.read(data, reading)
    if raw is None:
        with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
            if not is_deep(image):
                return None
            load(image)
            raw = raw_values(image)
    return None if raw.values.dtype == np.uint8 else raw


def reduced(pixels: Pixels, resize_shorter: int | None) -> Pixels:
    """Return an image with its shorter side reduced, channel by channel as Pillow does it."""
    height, width = resized(pixels.shape[0], pixels.shape[1], resize_shorter)
    if (height, width) == pixels.shape[:2]:
        return np.ascontiguousarray(pixels)
    image, bilinear = pillow(), pillow().Resampling.BILINEAR
    planes = (image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[2]))
    return np.stack([np.asarray(plane.resize((width, height), bilinear)) for plane in planes], axis=-1)


def decoding_bytes(data: bytes, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> int | None:
    """Return how many bytes :func:`decode_image` takes at most, or None if `data` does not say how large the image is.

    Args:
        data: the encoded image, or its beginning.
        resize_shorter: as it will be decoded.
        reading: likewise.
    """
    try:
        if (facts := deep.facts(data, reading)) is not None:
            return facts.needed
        with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
            return bytes_to_decode(image, resize_shorter, reading)
    except Exception:
        return None


def bytes_to_decode(image: Image, resize_shorter: int | None, reading: Reading = AS_RGB) -> int:
    """Return how many bytes it takes to decode an image that was opened; its reduced size is chosen on the way."""
    whole = image.height * image.width
    height, width = resized(image.height, image.width, resize_shorter)
    coefficients = 6 * whole if "progressive" in image.info else 0
    if (height, width) != image.size[::-1]:
        image.draft(image.mode, (width, height))
    per_pixel = DECODING_BYTES.get(image.format or "", OTHER_DECODING_BYTES)
    # pages are held together, with as many bytes as the deepest have
    pages = 6 * whole * reading.channels if reading.pages == "channels" else 0
    return int(
        coefficients + per_pixel * image.height * image.width + max(reading.channels, 3) * height * width + pages
    )


def explain(error: Exception) -> str:
    """Return the reason why a file could not be decoded, in a few words on one line."""
    if isinstance(error, pillow().UnidentifiedImageError):
        return "no image of a known format"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def decode_named(path: Path, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Pixels:
    """Decode a file that somebody has named; see :func:`decode_image`.

    Raises:
        ValueError: it cannot be read; the message names it.
        ModuleNotFoundError: Pillow is not installed.
    """
    pillow()
    try:
        with quiet_pillow():
            return decode_image(path, resize_shorter, reading)
    except Exception as error:  # Pillow raises many types for a damaged file
        raise ValueError(f"{str(path)!a} cannot be read: {explain(error)}") from error


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return ``pixels`` ``[H, W, C]`` rotated or flipped by EXIF orientation 1 to 8; other values change nothing."""
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


def glance(storage: Storage, row: int, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Header | None:
    """Return what the first bytes of an image say, or None where :func:`examine` has to see the whole file.

    That is where they say nothing, and where a JPEG is of an odd structure or has no end marker at its end.

    Raises:
        OSError: the image cannot be read.
        Exception: whatever Pillow raises for a damaged header of a file that is short.
    """
    data, tail, size = storage.read_ends(row, HEAD_BYTES, len(jpeg.END))
    try:
        header = parse(data, size, resize_shorter, reading)
    except Exception:
        if size <= len(data):
            raise
        return None
    return header if is_whole(header, data, tail) else None


def examine(data: bytes, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Header:
    """Return what an image says of itself, once it is decoded if it is a JPEG of an odd structure or without an end.

    Raises:
        OSError: it is in no known format, or ends early.
        PIL.Image.DecompressionBombError: the header announces more pixels than Pillow allows (about 179 million).
        Exception: whatever else Pillow raises for a damaged file.
    """
    header = parse(data, len(data), resize_shorter, reading)
    if not is_whole(header, data, data[-len(jpeg.END) :]):
        decode_image(data, resize_shorter, reading)
    return header


def is_whole(header: Header, head: bytes, tail: bytes) -> bool:
    """Return whether an image is no JPEG, or one that looks regular by its first and last bytes."""
    return not head.startswith(jpeg.START) or (header.plain and tail == jpeg.END)


def parse(data: bytes, size: int, resize_shorter: int | None = None, reading: Reading = AS_RGB) -> Header:
    """Return the header of the image of ``size`` bytes that begins with ``data``.

    Raises:
        ValueError: it has another number of channels than are asked for.
        Exception: whatever Pillow raises for a damaged header.
    """
    if (facts := deep.facts(data, reading)) is not None:
        check_channels(facts.channels, reading.channels)
        if facts.stored > size:
            raise OSError(f"ends early: {facts.stored} bytes are announced, and {size} are there")
        return Header(facts.height, facts.width, False, size, size + facts.needed)
    with pillow().open(io.BytesIO(data), formats=FORMATS) as image:
        height, width = image.height, image.width
        # only JPEG: for other formats, reading the orientation may decode the image
        if image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            height, width = width, height
        if reading.channels not in (1, 3) and reading.pages == "first":
            check_channels(len(image.getbands()), reading.channels)
        # DALI decodes to RGB
        plain = image.format == "JPEG" and reading.channels == 3 and is_plain(data)
        return Header(height, width, plain, size, size + bytes_to_decode(image, resize_shorter, reading))


def is_plain(data: bytes) -> bool:
    """Return whether a file that begins with `data` is, down to its first scan, a regular JPEG."""
    try:
        jpeg.read_structure(data, whole=False)
    except jpeg.IrregularError:
        return False
    return True
