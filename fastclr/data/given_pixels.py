"""Arrays, tensors and PIL images of a program as the pixels of a data set: uint8, channels last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastclr.data.decode_many import DecodeOptions, check_memory
from fastclr.sources.decode import pixels_of, reduced
from fastclr.sources.reading import Pixels, Raw, Reading, full_range, to_bytes

CHUNK = 256  # images of an array that are converted at a time


def whole_array(images: npt.NDArray[Any] | Tensor, options: DecodeOptions, title: str) -> Tensor:
    """Return an array of images as uint8 ``[N, H, W, C]``; one that is so already is not copied."""
    planar = isinstance(images, Tensor)
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    if len(array) == 0 or array.ndim not in (3, 4):
        raise ValueError(f"{title} must be images [N, H, W] or [N, H, W, C], got shape {list(array.shape)}")
    reading = options.reading
    first = as_pixels(array[:1], planar, title, reading, batch=True)
    shape = (len(array), *first.shape[1:])
    if options.resize_shorter is not None and options.resize_shorter < min(shape[1:3]):
        raise ValueError(f"resize_shorter is for images to decode, and {title} holds {shape[1]} x {shape[2]} pixels")
    as_it_is = array.dtype == np.uint8 and array.flags.c_contiguous
    if as_it_is and (first.shape, first.strides) == (array[:1].shape, array[:1].strides):
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    check_memory(title, math.prod(shape), len(array), options.budget(), options)
    pixels = np.empty(shape, dtype=np.uint8)
    for start in range(0, len(array), CHUNK):
        pixels[start : start + CHUNK] = as_pixels(array[start : start + CHUNK], planar, title, reading, batch=True)
    return torch.from_numpy(pixels)


def as_pixels(array: npt.NDArray[Any], planar: bool, title: str, reading: Reading, batch: bool = False) -> Pixels:
    """Return pixels as uint8 ``[H, W, C]``, with ``batch`` ``[N, H, W, C]``.

    Args:
        array: ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]``; with ``batch``, N of them.
        planar: whether ``[C, H, W]`` is meant where both are possible.
        title: of the source, for messages.
        reading: number of channels, and what becomes of other types than uint8.
        batch: whether there are several images.

    Raises:
        ValueError: the shape, the kind of numbers or their range is another one.
    """
    array = channels_last(array, planar, title, reading.channels, batch)
    if array.dtype.kind == "f" and reading.range is None:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{title} must be uint8, or floats in [0, 1], got {low:g} to {high:g}: leave out what normalises them, "
                "or say their range (--range LO HI, auto or file)"
            )
        array = np.round(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        known = full_range(array.dtype)
        if array.dtype.kind not in "uif" or (reading.range is None and known is None):
            raise ValueError(
                f"{title} must be uint8, uint16, or floats in [0, 1], got {array.dtype}: say the range of other "
                "numbers (--range LO HI, auto or file)"
            )
        images = array if batch else array[None]
        scaled = np.stack([to_bytes(Raw(image, known), reading.range) for image in images])
        array = scaled if batch else scaled[0]
    grey = array.shape[-1] == 1 and reading.channels == 3
    return np.repeat(array, 3, axis=-1) if grey else array


def channels_last(
    array: npt.NDArray[Any], planar: bool, title: str, channels: int, batch: bool = False
) -> npt.NDArray[Any]:
    """Return an image, or with ``batch`` several, as ``[H, W, C]``, of whatever type."""
    shape = list(array.shape)
    allowed = (1, 3) if channels == 3 else (channels,)
    if array.ndim - batch == 2:
        array = array[..., None]
    elif array.ndim - batch == 3 and is_planar(array.shape, planar, allowed):
        array = np.moveaxis(array, -3, -1)
    if array.ndim - batch != 3 or array.shape[-1] not in allowed or 0 in array.shape:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{title} must have images of {wanted} channels, got shape {shape}; --channels says how many")
    return array


def is_planar(shape: tuple[int, ...], likelier: bool, allowed: tuple[int, ...]) -> bool:
    """Return whether the channels come before height and width; where both fit, ``likelier`` decides."""
    if len(shape) < 3 or shape[-3] not in allowed:
        return False
    return likelier or shape[-1] not in allowed


def item_pixels(image: Any, options: DecodeOptions, image_module: Any, title: str) -> Pixels:
    """Return an image of a dataset as uint8 ``[H, W, C]``."""
    if isinstance(image, (np.ndarray, Tensor)):
        planar = isinstance(image, Tensor)
        numbers = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
        # copied, because the dataset may use its memory again
        return reduced(np.array(as_pixels(numbers, planar, title, options.reading), order="C"), options.resize_shorter)
    if not isinstance(image, image_module.Image):
        raise TypeError(f"{title} must give PIL images, arrays or tensors, got {type(image).__name__}")
    return pixels_of(image, options.resize_shorter, options.reading)
