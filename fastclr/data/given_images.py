"""Images that a program holds already: a map-style Dataset, arrays, images with labels, or several of them by split."""

from __future__ import annotations

import itertools
import logging
import math
import numbers
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.batch import check_label_range
from fastclr.data.decode_many import DecodeOptions, check_memory, check_readable, pack
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.item_reader import Item, read_in_order, workers_for
from fastclr.data.make_sets import renumbered
from fastclr.data.value_range import Scaling, evenly, scaling_of
from fastclr.sources.decode import explain, is_deep, pillow, pixels_of, raw_values, reduced
from fastclr.sources.entries import TEST_SPLITS, split_folders
from fastclr.sources.printable import progress_bar
from fastclr.sources.reading import Pixels, Raw, Reading, full_range, to_bytes

IMAGE_KEYS = ("image", "img", "pixel_values", "images")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class")
CHUNK = 256  # images of an array that are converted at a time
READ_TWICE = 4  # images that must be the same when they are asked for again
MAX_CLASSES = 10**6

log = logging.getLogger("fastclr")


def open_given(source: Sized, options: DecodeOptions, name: str | None = None) -> Splits:
    """Return the images of an object as decoded sets; ids are positions.

    Args:
        source: one of

            - an array or tensor of images: uint8, uint16, floats in [0, 1], or other numbers with a range;
              ``[N, H, W]``, ``[N, H, W, C]`` or, as a tensor, ``[N, C, H, W]``, with C as in ``options.reading``, or 1
              where that is 3;
            - a tuple of such images and their labels ``[N]`` or ``[N, 1]``;
            - a map-style dataset, with ``__len__`` and ``__getitem__``, of PIL images, arrays or tensors, alone, in
              tuples ``(image, label)`` or in dictionaries with ``image`` and ``label``, as Hugging Face has them;
            - a dictionary of these by split: ``train`` and one of ``test``, ``val``, ``valid``, ``validation``.

            Classes are named by the dataset's attribute ``classes`` or its ``features``, else by their numbers.
        options: how large images are made, and how much memory they may take.
        name: of the source, for messages.

    Raises:
        TypeError: it is something else.
        ValueError: the images are of another shape or range, are not the same when they are asked for twice, mostly
            cannot be read, or do not fit into memory.
    """
    title = name or f"the {type(source).__name__}"
    if isinstance(source, Mapping):
        folders = split_folders(list(source))
        if "train" not in folders:
            raise ValueError(f"{title} must have an entry train, got {', '.join(map(repr, source)) or 'none'}")
        tests = [folders[split] for split in TEST_SPLITS if split in folders]
        chosen = {"train": source[folders["train"]], **({"test": source[tests[0]]} if tests else {})}
    else:
        chosen = {"train": source}
    scaling = scaling_of_given(chosen["train"], options.reading, f"{title} (train)")
    options = replace(options, reading=scaling.reading)
    sets = {split: read_given(part, options, f"{title} ({split})") for split, part in chosen.items()}
    train, test = sets["train"], sets.get("test")
    if test is None or not train.classes:
        return Splits(train, None, range=scaling.range, scaling=scaling.text)
    known = (test.labels >= 0).nonzero().flatten()
    test = renumbered(test.select(known), train.classes) if len(known) else None
    return Splits(train, test, range=scaling.range, scaling=scaling.text)


def scaling_of_given(source: Any, reading: Reading, title: str) -> Scaling:
    """Look at a sample of images for their range; of a dataset, whose items are made, only where one is asked for."""
    images = source[0] if is_pair(source) else source
    whole = isinstance(images, (np.ndarray, Tensor))
    usual = images.dtype in (np.uint8, torch.uint8) if whole else reading.range is None
    if usual or not hasattr(images, "__len__") or not len(images):
        return Scaling(reading.within(None))

    def sample() -> Iterator[tuple[str, Raw | None]]:
        for row in evenly(len(images)):
            try:
                image = images[row] if whole else parts_of(images[row], title)[0]
                array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
                if isinstance(array, np.ndarray):
                    shaped = channels_last(array, isinstance(image, Tensor), title, reading.channels)
                    yield str(row), None if array.dtype == np.uint8 else Raw(shaped, full_range(array.dtype))
                else:
                    yield str(row), raw_values(image) if is_deep(image) else None
            except Exception:  # it will be named as unreadable, or refused
                continue

    return scaling_of(sample(), reading, title)


def read_given(source: Any, options: DecodeOptions, title: str) -> ImageDataset:
    """Return the images of one split."""
    images, labels = source if is_pair(source) else (source, None)
    if isinstance(images, (np.ndarray, Tensor)):
        pixels: Tensor | RaggedImages = whole_array(images, options, title)
        rows, skipped = list(range(len(images))), dict[int, str]()
        kinds = [None] * len(rows) if labels is None else scalar_labels(labels, len(rows), title)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        pixels, rows, kinds, skipped = read_items(images, options, title)
    else:
        raise TypeError(
            f"{title} must be an array of images or a map-style dataset, with __len__ and __getitem__, got "
            f"{type(images).__name__}: what can only be iterated has no positions that could be the images' ids"
        )
    classes, numbers_of = class_numbers(kinds, class_names_of(images), title)
    width = len(str(max(len(images) - 1, 0)))
    return ImageDataset(
        images=pixels,
        ids=torch.tensor(rows, dtype=torch.int64),
        labels=numbers_of,
        classes=classes,
        names=tuple(f"{row:0{width}d}" for row in rows),
        source=title,
        skipped=tuple((f"{row:0{width}d}", reason) for row, reason in skipped.items()),
    )


def is_pair(source: object) -> bool:
    """Return whether this is a tuple of an array of images and labels."""
    return isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (np.ndarray, Tensor))


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
    if array.flags.c_contiguous and (first.shape, first.strides) == (array[:1].shape, array[:1].strides):
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


Items = tuple[Tensor | RaggedImages, list[int], list[Any], dict[int, str]]


@dataclass
class ItemReader:
    """Reads one item of a map-style dataset; processes may share it.

    Args:
        dataset: the dataset.
        options: how large images are made, and what becomes of other depths.
        title: of the dataset, for messages.
    """

    dataset: Any
    options: DecodeOptions
    title: str

    def __call__(self, row: int) -> Item:
        """Return pixels and label, the reason why there are none, or the error that ends the reading."""
        try:
            item = self.dataset[row]
        except Exception as error:  # what a dataset of damaged files raises
            return explain(error)
        try:
            image, kind = parts_of(item, self.title)
            return item_pixels(image, self.options, pillow(), self.title), kind
        except (TypeError, ValueError) as error:
            return error
        except Exception as error:  # of an image that Pillow reads only now
            return explain(error)

    def twice(self, row: int) -> Item:
        """Read an item and make sure that it is the same when it is asked for again."""
        found, again = self(row), self(row)
        if isinstance(found, tuple) and isinstance(again, tuple) and not np.array_equal(found[0], again[0]):
            return ValueError(
                f"{self.title} gives another image for {row} each time: leave its random transforms out, because "
                "fastclr augments the images itself"
            )
        return found


def read_items(dataset: Any, options: DecodeOptions, title: str) -> Items:
    """Read all items of a map-style dataset; return pixels, positions, labels, and reasons of what cannot be read.

    Raises:
        TypeError: an item holds no image.
        ValueError: as for `open_given`.
    """
    count = len(dataset)
    if count == 0:
        raise ValueError(f"{title} is empty")
    pillow()
    read, first = ItemReader(dataset, options, title), min(READ_TWICE, count)
    rest = read_in_order(read, range(first, count), workers_for(dataset, options.workers))
    pixels: list[Pixels] = []
    rows: list[int] = []
    kinds: list[Any] = []
    failed: dict[int, str] = {}
    total, limit = 0, options.budget()
    with progress_bar(total=count, desc="reading", unit=" images") as bar:
        for row, found in enumerate(itertools.chain(map(read.twice, range(first)), rest)):
            bar.update()
            if isinstance(found, Exception):
                raise found
            if isinstance(found, str):
                failed[row] = found
                continue
            pixels.append(found[0])
            rows.append(row)
            kinds.append(found[1])
            total += found[0].nbytes
            if total * count > limit * len(rows) or total > limit:
                check_memory(title, round(total * count / len(rows)), count, limit, options)
    check_readable(title, {str(row): reason for row, reason in failed.items()}, count)
    return pack(pixels), rows, kinds, failed


def parts_of(item: Any, title: str) -> tuple[Any, Any]:
    """Return image and label of an item of a dataset; None where there is no label."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        if image is None:
            raise TypeError(f"{title} must have one of {', '.join(IMAGE_KEYS)} in its items, got {sorted(item)}")
        return image, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, (tuple, list)):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


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


def class_names_of(dataset: Any) -> tuple[str, ...]:
    """Return the names that a dataset has for its classes; empty if it has none."""
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        labels = next((features[key] for key in LABEL_KEYS if key in features), None)
        return tuple(map(str, getattr(labels, "names", None) or ()))
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def scalar_labels(labels: Any, count: int, title: str) -> list[Any]:
    """Return the labels of an array, ``[N]`` or ``[N, 1]``, as a list."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape not in ((count,), (count, 1)):
        if array.ndim == 2 and len(array) == count:
            log.warning("the labels of %s are not used: each image has %d", title, array.shape[1])
            return [None] * count
        raise ValueError(f"the labels of {title} must be [{count}] or [{count}, 1], got {list(array.shape)}")
    found: list[Any] = array.reshape(-1).tolist()
    return found


def class_numbers(kinds: list[Any], names: tuple[str, ...], title: str) -> tuple[tuple[str, ...], Tensor]:
    """Return the classes, and labels as indices into them; -1 where there is none or it is neither number nor name.

    Raises:
        ValueError: a number is out of range.
    """
    plain = [scalar(kind) for kind in kinds]
    odd = next((kind for kind, label in zip(kinds, plain, strict=True) if kind is not None and label is None), None)
    if odd is not None:
        log.warning("labels of %s that are neither numbers nor names count as unknown: %s", title, type(odd).__name__)
    texts = sorted({label for label in plain if isinstance(label, str)})
    if texts:
        classes = names if set(texts) <= set(names) else tuple(texts)
        places = {text: place for place, text in enumerate(classes)}
        return classes, torch.tensor([places.get(str(label), -1) for label in plain], dtype=torch.int64)
    values = [-1 if label is None else int(label) for label in plain]
    low, highest = min(values, default=-1), max(values, default=-1)
    if low < -1 or highest >= MAX_CLASSES:
        raise ValueError(f"the labels of {title} must be in -1 .. {MAX_CLASSES - 1}, got {low} .. {highest}")
    classes = names if names and highest >= 0 else tuple(str(number) for number in range(highest + 1))
    labels = torch.tensor(values, dtype=torch.int64)
    check_label_range(labels, classes)
    return classes, labels


def scalar(kind: Any) -> int | str | None:
    """Return a label as a number or a name; None if it is neither."""
    if isinstance(kind, (np.ndarray, Tensor)) and math.prod(kind.shape) == 1:
        kind = kind.item()
    if isinstance(kind, str):
        return kind
    return int(kind) if isinstance(kind, numbers.Integral) and not isinstance(kind, bool) else None
