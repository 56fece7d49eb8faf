"""Encoded images that Pillow does not decode in full: arrays, DICOM, TIFF of many bands, colours of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from fastclr.sources.array_image import MAGIC, array_header, array_values, image_shape
from fastclr.sources.dicom import dicom_channels, dicom_header, dicom_shape, dicom_values, is_dicom
from fastclr.sources.reading import AS_RGB, Raw, Reading, deep_bytes, full_range
from fastclr.sources.tiff import MARKS, tiff_header, tiff_values

PNG = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = (2, 4, 6)  # types of more than one sample


@dataclass(frozen=True)
class Facts:
    """What the beginning of such an image says.

    Args:
        height: in pixels.
        width: in pixels.
        channels: how many it is read with.
        stored: bytes that the file must have at least; 0 where that is not stated.
        needed: bytes that decoding takes at most, beside the encoded image.
    """

    height: int
    width: int
    channels: int
    stored: int
    needed: int


def may_be(head: bytes) -> bool:
    """Return whether a file that begins so may be such an image."""
    return head.startswith((MAGIC, PNG, *MARKS)) or is_dicom(head)


def kind_of(head: bytes) -> str:
    """Return the name of the format of such an image."""
    return "NPY" if head.startswith(MAGIC) else "DICOM" if is_dicom(head) else "TIFF"


def facts(data: bytes, reading: Reading) -> Facts | None:
    """Return what the beginning of an image says; None for what Pillow decodes.

    Raises:
        ValueError: it is damaged, or of a kind that is not read.
        Exception: whatever pydicom raises.
    """
    if data.startswith(MAGIC):
        header = array_header(data)
        height, width, channels = image_shape(header, reading)
        needed = deep_bytes(height, width, channels, header.kind.itemsize)
        return Facts(height, width, channels, header.start + header.nbytes, needed)
    if is_dicom(data):
        found = dicom_header(data)
        height, width, _, _ = dicom_shape(found)
        channels = dicom_channels(found, reading)
        bits = int(found.get("BitsAllocated", 16))
        return Facts(height, width, channels, 0, deep_bytes(height, width, channels, 2 * -(-bits // 8)))
    tiff = tiff_header(data)
    if tiff is not None and (tiff.beyond_pillow or (tiff.deep_colour and reading.range is not None)):
        needed = deep_bytes(tiff.height, tiff.width, tiff.samples, 2 * -(-tiff.bits // 8))
        return Facts(tiff.height, tiff.width, tiff.samples, 0, needed)
    return None


def read(data: bytes, reading: Reading) -> Raw | None:
    """Return the values of an image; None for what Pillow decodes.

    Raises:
        ValueError: it is damaged, or of a kind that is not read.
        ModuleNotFoundError: a package is not installed that its format needs.
        Exception: whatever pydicom or tifffile raises.
    """
    if data.startswith(MAGIC):
        values = array_values(data, reading)
        return Raw(values, full_range(values.dtype))
    if is_dicom(data):
        return dicom_values(data, reading)
    if data.startswith(PNG) and reading.range is not None and len(data) > 25:
        if data[24] == 16 and data[25] in PNG_COLOURS:
            raise ValueError(
                "of a PNG with colours of 16 bits Pillow keeps 8, so that no range applies: store TIFF or .npy"
            )
        return None
    if facts(data, reading) is None:
        return None
    values = tiff_values(data)
    return Raw(values, full_range(values.dtype))


def stated_size(head: bytes) -> tuple[int, int] | None:
    """Return height and width of an image that begins so, for an estimate; None for what Pillow decodes."""
    if head.startswith(MAGIC):
        shape = array_header(head).shape
        if len(shape) == 3:
            return shape[1:] if shape[0] < shape[2] else shape[:2]
        return shape if len(shape) == 2 else None
    found = facts(head, AS_RGB) if may_be(head) else None
    return None if found is None else (found.height, found.width)
