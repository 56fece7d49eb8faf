"""Read ``.npy`` and ``.npz`` files of images, such as MedMNIST's, without trusting what they say of their size."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fastclr.data.decode_many import DecodeOptions, check_memory
from fastclr.data.decoded_set import Splits
from fastclr.data.given_images import open_given
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.entries import TEST_SPLITS

SUFFIXES = (".npz", ".npy")
# names of images and labels: MedMNIST's and Keras's; {} is a split
LAYOUTS = (("{}_images", "{}_labels", "{}_%s"), ("x_{}", "y_{}", "%s_{}"), ("X_{}", "y_{}", "%s_{}"))
WHOLE = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("arr_0", "arr_1"))
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Array = npt.NDArray[Any]


def read_arrays(path: Path, options: DecodeOptions, captions: CaptionOptions | None = None) -> Splits:
    """Return the images of a ``.npy`` file, or those of a ``.npz`` file with their labels, captions and splits.

    Images are uint8, or floats in [0, 1]: ``[N, H, W]``, ``[N, H, W, 1]`` or ``[N, H, W, 3]``; labels ``[N]`` or
    ``[N, 1]``; captions texts ``[N]`` or ``[N, k]``, of which empty ones do not count. The arrays are named
    ``train_images``, ``train_labels``, ``train_captions``, ``test_images``, ... as MedMNIST has them, ``x_train``,
    ``y_train``, ``captions_train``, ... as Keras has them, or ``images``, ``labels`` and ``captions``.

    Args:
        path: the file.
        options: how much memory the images may take.
        captions: the word in place of ``captions``, if they are asked for.

    Raises:
        ValueError: the file is damaged, holds Python objects or no images under these names, or takes too much memory.
    """
    try:
        if path.suffix.lower() == ".npy":
            if captions is not None:
                raise ValueError(f"{path} holds one array, and captions are asked for: an .npz has them beside images")
            with path.open("rb") as file:
                parts: Any = read_array(file, path.stat().st_size, str(path), options)
        else:
            with zipfile.ZipFile(path) as archive:
                parts = read_splits(archive, path, options, captions)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return open_given(parts, options, str(path), captions)


def read_splits(
    archive: zipfile.ZipFile, path: Path, options: DecodeOptions, captions: CaptionOptions | None = None
) -> Any:
    """Return the images of each split, with labels where there are some, and with captions if they are asked for."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    word = "captions" if captions is None or len(captions.names) > 1 else captions.names[0]

    def read(name: str) -> Array:
        with archive.open(members[name]) as file:
            return read_array(file, members[name].file_size, f"{path}: {name}", options)

    there = ", ".join(members) or "none"

    def parts(images: str, labels: str, texts: str) -> Any:
        if captions is None:
            return (read(images), read(labels)) if labels in members else read(images)
        if texts not in members:
            raise ValueError(f"{path} must have the captions of {images} under the name {texts}; it has {there}")
        return read(images), read(labels) if labels in members else None, read(texts)

    for images, labels, texts in LAYOUTS:
        if images.format("train") in members:
            test = next((split for split in TEST_SPLITS if images.format(split) in members), None)
            chosen = ["train"] if test is None else ["train", test]
            named = texts.replace("%s", word)
            return {split: parts(*(name.format(split) for name in (images, labels, named))) for split in chosen}
    for images, labels in WHOLE:
        if images in members:
            return parts(images, labels, word)
    known = ", ".join([*(names[0].format("train") for names in LAYOUTS), *(names[0] for names in WHOLE)])
    raise ValueError(f"{path} must have its images under one of the names {known}; it has {there}")


def read_array(file: IO[bytes], size: int, title: str, options: DecodeOptions) -> Array:
    """Return the array in a ``.npy`` file of so many bytes; nothing is allocated that the file does not hold.

    Raises:
        ValueError: it is damaged, holds Python objects, or takes too much memory.
    """
    try:
        version = np.lib.format.read_magic(file)
        shape, by_columns, kind = READERS[version](file, max_header_size=2**14)
    except Exception as error:  # NumPy raises many types for a damaged header, tokenize.TokenError among them
        raise ValueError(f"{title} is no array in version 1.0 or 2.0 of NumPy's format: {error}") from error
    if kind.hasobject or kind.itemsize == 0:
        raise ValueError(f"{title} holds {kind}, which is no array of numbers")
    needed = math.prod(shape) * kind.itemsize
    if min(shape, default=1) < 0 or needed > size:
        raise ValueError(f"{title} says it holds {list(shape)} of {kind}, which its {size} bytes do not")
    check_memory(title, needed, shape[0] if shape else 1, options.budget())
    array = np.empty(needed, dtype=np.uint8)
    place = 0
    while place < needed:
        part = file.read(min(needed - place, 2**24))
        if not part:
            raise ValueError(f"{title} ends {needed - place} bytes early")
        array[place : place + len(part)] = np.frombuffer(part, dtype=np.uint8)
        place += len(part)
    found: Array = array.view(kind).reshape(shape, order="F" if by_columns else "C")
    return found
