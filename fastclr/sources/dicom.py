"""DICOM images, read by pydicom: modality rescale, and inversion where the largest value is black."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from fastclr.sources.packages import needed
from fastclr.sources.reading import Interval, Raw, Reading

PREFIX = b"DICM"  # behind 128 bytes
DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax whose whole data set is one stream of unknown length
META = 2**12  # bytes at the beginning, in which the transfer syntax is named
MAX_VALUES = 2**28  # values of an image


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return head[128:132] == PREFIX


def dicom_header(data: bytes) -> Any:
    """Return the elements of a file that stand before its pixels, from its first bytes.

    Raises:
        ModuleNotFoundError: pydicom is not installed.
        ValueError: it is of a kind that is not read.
        Exception: whatever pydicom raises for a damaged file.
    """
    pydicom = needed("pydicom", "reading DICOM needs pydicom", "scientific")
    if DEFLATED in data[:META]:
        raise ValueError("a deflated DICOM file is not read: its decompressed size is stated nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd values, which do not name the file
        found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    height, width, samples, frames = dicom_shape(found)
    if min(height, width, samples, frames) < 1 or height * width * samples * frames > MAX_VALUES:
        raise ValueError(f"a DICOM image of {frames} x {height} x {width} x {samples} values is not read")
    if str(found.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        raise ValueError("a DICOM image of a colour palette is not read")
    return found


def dicom_shape(header: Any) -> tuple[int, int, int, int]:
    """Return height, width, samples of a pixel, and number of frames."""
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    return rows, columns, int(header.get("SamplesPerPixel", 1) or 1), int(header.get("NumberOfFrames", 1) or 1)


def dicom_channels(header: Any, reading: Reading) -> int:
    """Return how many channels the image is read with."""
    _, _, samples, frames = dicom_shape(header)
    return frames * samples if reading.pages == "channels" else samples


def dicom_full_range(header: Any, slope: float, intercept: float) -> Interval:
    """Return the smallest and the largest value that the stored bits can mean."""
    bits, signed = int(header.get("BitsStored", 8)), int(header.get("PixelRepresentation", 0)) == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    ends = low * slope + intercept, high * slope + intercept
    return min(ends), max(ends)


def dicom_values(data: bytes, reading: Reading) -> Raw:
    """Return the values of a DICOM image, in the unit of its modality (as Hounsfield's), by slope and intercept.

    Window centre and width, which concern a display, are left aside. Of several frames the first is read, or with
    ``pages="channels"`` all.

    Raises:
        ValueError: it is of a kind that is not read.
        ModuleNotFoundError: pydicom is not installed.
        Exception: whatever pydicom raises for a damaged file, or for one whose decoder is not installed.
    """
    header = dicom_header(data)
    pixels = needed("pydicom.pixels", "reading DICOM needs pydicom", "scientific")
    height, width, samples, frames = dicom_shape(header)
    whole = reading.pages == "channels" and frames > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = np.asarray(pixels.pixel_array(io.BytesIO(data), index=None if whole else 0))
    if stored.dtype.kind not in "ui":
        raise ValueError(f"a DICOM image of {stored.dtype} is not read")
    each = stored.reshape(frames if whole else 1, height, width, samples)
    values = np.moveaxis(each, 0, -2).reshape(height, width, -1)
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ValueError(f"a DICOM image whose rescale slope is {slope} and intercept {intercept} is not read")
    if samples == 3 and values.dtype == np.uint8:
        return Raw(values, (0.0, 255.0))
    inverted = str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    return Raw(values, dicom_full_range(header, slope, intercept), slope, intercept, inverted)
