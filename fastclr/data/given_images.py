"""Images that a program holds already: a map-style Dataset, arrays, images with labels, or several of them by split."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastclr.data.batch import check_label_range
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.given_captions import captions_beside
from fastclr.data.given_items import LABEL_KEYS, Items, parts_of, read_items
from fastclr.data.given_pixels import channels_last, whole_array
from fastclr.data.make_sets import renumbered, unlabelled
from fastclr.data.value_range import Scaling, evenly, scaling_of
from fastclr.sources.bands import is_deep, load, raw_values
from fastclr.sources.captions import NO_CAPTION, CaptionOptions, check_captioned
from fastclr.sources.entries import TEST_SPLITS, split_folders
from fastclr.sources.labels import MAX_CLASSES
from fastclr.sources.reading import Raw, Reading, full_range

log = logging.getLogger("fastclr")


def open_given(
    source: Sized, options: DecodeOptions, name: str | None = None, captions: CaptionOptions | None = None
) -> Splits:
    """Return the images of an object as decoded sets; ids are positions.

    Args:
        source: one of

            - an array or tensor of images: uint8, uint16, floats in [0, 1], or other numbers with a range;
              ``[N, H, W]``, ``[N, H, W, C]`` or, as a tensor, ``[N, C, H, W]``, with C as in ``options.reading``, or 1
              where that is 3;
            - a tuple of such images and their labels ``[N]`` or ``[N, 1]``; where captions are asked for, of images and
              captions, or of images, labels and captions: a list or array of N texts, or of several for each image;
            - a map-style dataset, with ``__len__`` and ``__getitem__``, of PIL images, arrays or tensors, alone, in
              tuples ``(image, label)`` or in dictionaries with ``image`` and ``label``, as Hugging Face has them; where
              captions are asked for, in tuples ``(image, captions)`` or ``(image, label, captions)``, or in
              dictionaries with ``caption``: a text, or a list of texts;
            - a dictionary of these by split: ``train`` and one of ``test``, ``val``, ``valid``, ``validation``.

            Classes are named by the dataset's attribute ``classes`` or its ``features``, else by their numbers.
        options: how large images are made, and how much memory they may take.
        name: of the source, for messages.
        captions: what the captions are called, if they are asked for; images without one are left out and named.

    Raises:
        TypeError: it is something else.
        ValueError: the images are of another shape or range, are not the same when they are asked for twice, mostly
            cannot be read or have no caption, or do not fit into memory.
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
    scaling = scaling_of_given(chosen["train"], options.reading, f"{title} (train)", captions)
    options = replace(options, reading=scaling.reading)
    sets = {split: read_given(part, options, f"{title} ({split})", captions) for split, part in chosen.items()}
    train, test = sets["train"], sets.get("test")
    if test is not None and captions is not None:  # there is something to compare with, whatever its class
        test = renumbered(test, train.classes) if train.classes else unlabelled(test)
    elif test is not None:
        known = (test.labels >= 0).nonzero().flatten()
        test = renumbered(test.select(known), train.classes) if train.classes and len(known) else None
    return Splits(train, test, range=scaling.range, scaling=scaling.text)


def scaling_of_given(source: Any, reading: Reading, title: str, captions: CaptionOptions | None) -> Scaling:
    """Look at a sample of images for their range; of a dataset, whose items are made, only where one is asked for."""
    images = source[0] if is_pair(source) else source
    whole = isinstance(images, (np.ndarray, Tensor))
    usual = images.dtype in (np.uint8, torch.uint8) if whole else reading.range is None
    if usual or not hasattr(images, "__len__") or not len(images):
        return Scaling(reading.within(None))

    def sample() -> Iterator[tuple[str, Raw | None]]:
        for row in evenly(len(images)):
            try:
                image = images[row] if whole else parts_of(images[row], title, captions)[0]
                array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
                if isinstance(array, np.ndarray):
                    shaped = channels_last(array, isinstance(image, Tensor), title, reading.channels)
                    yield str(row), None if array.dtype == np.uint8 else Raw(shaped, full_range(array.dtype))
                else:
                    load(image)
                    yield str(row), raw_values(image) if is_deep(image) else None
            except Exception:  # it will be named as unreadable, or refused
                continue

    return scaling_of(sample(), reading, title)


def read_given(source: Any, options: DecodeOptions, title: str, captions: CaptionOptions | None) -> ImageDataset:
    """Return the images of one split."""
    images = source[0] if is_pair(source) else source
    if isinstance(images, (np.ndarray, Tensor)):
        pixels, rows, known, skipped = read_array(source, options, title, captions is not None)
    elif hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        pixels, rows, known, skipped = read_items(images, options, title, captions)
    else:
        raise TypeError(
            f"{title} must be an array of images or a map-style dataset, with __len__ and __getitem__, got "
            f"{type(images).__name__}: what can only be iterated has no positions that could be the images' ids"
        )
    classes, numbers_of = class_numbers([kind for kind, _ in known], class_names_of(images), title)
    width = len(str(max(len(images) - 1, 0)))
    return ImageDataset(
        images=pixels,
        ids=torch.tensor(rows, dtype=torch.int64),
        labels=numbers_of,
        classes=classes,
        names=tuple(f"{row:0{width}d}" for row in rows),
        source=title,
        skipped=tuple((f"{row:0{width}d}", reason) for row, reason in skipped.items()),
        captions=None if captions is None else tuple(texts for _, texts in known),
    )


def is_pair(source: object) -> bool:
    """Return whether this is a tuple of an array of images with labels, captions, or both."""
    if not isinstance(source, tuple) or len(source) not in (2, 3) or not isinstance(source[0], (np.ndarray, Tensor)):
        return False
    last = source[2] if len(source) == 3 else None  # three pictures are a dataset
    return not isinstance(last, Tensor) and (not isinstance(last, np.ndarray) or last.dtype.kind in "USO")


def read_array(source: Any, options: DecodeOptions, title: str, captioned: bool) -> Items:
    """Return an array of images, alone or with labels and captions, as `read_items` returns a dataset.

    Raises:
        TypeError: the captions are no list.
        ValueError: as for `open_given`.
    """
    images, *beside = source if is_pair(source) else (source,)
    pixels = whole_array(images, options, title)
    count = len(images)
    labels = None if not beside or (captioned and len(beside) == 1) else beside[0]
    kinds = [None] * count if labels is None else scalar_labels(labels, count, title)
    if not captioned:
        return pixels, list(range(count)), [(kind, ()) for kind in kinds], {}
    texts = captions_beside(beside[-1] if beside else [None] * count, count, title)
    lost = {row: NO_CAPTION + reason for row, reason in enumerate(texts) if isinstance(reason, str)}
    check_captioned(title, [(str(row), reason) for row, reason in lost.items()], count)
    rows = [row for row in range(count) if row not in lost]
    known = [(kinds[row], tuple(texts[row])) for row in rows]
    return (pixels[torch.tensor(rows)] if lost else pixels), rows, known, lost


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
