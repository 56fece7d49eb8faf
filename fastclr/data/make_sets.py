"""Make data sets from entries: decoded images, or indices of images to decode later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastclr.data.decode_many import (
    DecodeOptions,
    check_memory,
    check_readable,
    decode_files,
    decode_in_order,
    pack,
)
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.indexed_set import ImageIndex, check_headers
from fastclr.sources.decode import Header
from fastclr.sources.entries import Entry
from fastclr.sources.folder import Files, unread_images
from fastclr.sources.label_file import Labels, check_classes, places
from fastclr.sources.reading import Pixels
from fastclr.sources.remarks import quiet_pillow

Groups = list[tuple[str, list[Entry]]]


def class_names(entries: list[Entry]) -> tuple[str, ...]:
    """Return the sorted names of the classes."""
    return tuple(sorted({entry.kind for entry in entries if entry.kind is not None}))


def class_labels(entries: list[Entry], classes: tuple[str, ...]) -> Tensor:
    """Return the label of every entry as an index into ``classes``, int64 ``[N]``; -1 where the class is unknown."""
    index = {name: i for i, name in enumerate(classes)}
    return torch.tensor([-1 if e.kind is None else index[e.kind] for e in entries], dtype=torch.int64)


def decode_entries(
    files: Files, groups: Groups, classes: tuple[str, ...], options: DecodeOptions
) -> list[ImageDataset]:
    """Decode several groups of entries in one pass, and return a data set for each.

    Raises:
        ValueError: a group has classes outside ``classes`` or no readable image, more than half of all images cannot be
            decoded, or they do not fit into memory.
    """
    for _, entries in groups:
        check_classes(class_names(entries), classes, files.source)
    decoded, failed = decode_files(files, [[entry.path for entry in entries] for _, entries in groups], options)
    sets = []
    for good, fields in readable(files, groups, classes, failed):
        sets.append(ImageDataset(images=pack([decoded.pop(entry.path) for entry in good]), **fields))
    return sets


def index_entries(files: Files, groups: Groups, classes: tuple[str, ...], options: DecodeOptions) -> list[ImageIndex]:
    """Check the headers of several groups of entries, and return an index for each.

    Raises:
        ValueError: a group has classes outside ``classes`` or no readable image, more than half of all images cannot be
            read, or the source allows no random access.
    """
    for _, entries in groups:
        check_classes(class_names(entries), classes, files.source)
    paths = [entry.path for _, entries in groups for entry in entries]
    storage = files.storage(paths)
    headers: dict[str, Header] = {}
    failed: dict[str, str] = {}
    for path, header in zip(paths, check_headers(storage, options), strict=True):
        if isinstance(header, Header):
            headers[path] = header
        else:
            failed[path] = header
    check_readable(files.source, failed, len(paths))
    row = {path: index for index, path in enumerate(paths)}
    sets = []
    for good, fields in readable(files, groups, classes, failed):
        found = [headers[entry.path] for entry in good]
        part = storage.select(np.array([row[entry.path] for entry in good], dtype=np.int64))
        index = ImageIndex(
            storage=replace(part, sizes=np.array([header.size for header in found], dtype=np.int64)),
            sizes=torch.tensor([(header.height, header.width) for header in found], dtype=torch.int64),
            plain=torch.tensor([header.plain for header in found]),
            resize_shorter=options.resize_shorter,
            memory_limit=options.memory_limit,
            view_bytes=options.view_bytes,
            reading=options.reading,
            **fields,
        )
        sets.append(index)
    return sets


def decoded(images: ImageDataset | ImageIndex) -> ImageDataset:
    """Return the images of an index, decoded; those that cannot be are left out and named in ``skipped``.

    It is meant for a small selection: all images go through a loader. Decoded images are returned as they are.

    Raises:
        ValueError: they take more than half of the free memory, or none can be read.
    """
    if isinstance(images, ImageDataset):
        return images
    options = DecodeOptions(images.resize_shorter, images.memory_limit, reading=images.reading)
    check_memory(images.source, images.nbytes, len(images), options.budget())
    encoded = ((str(row), images.storage.encoded(row)) for row in range(len(images)))
    rows: list[int] = []
    pixels: list[Pixels] = []
    skipped: list[tuple[str, str]] = []
    with quiet_pillow():
        for row, result in decode_in_order(encoded, options):
            if isinstance(result, str):
                skipped.append((images.names[int(row)], result))
            else:
                rows.append(int(row))
                pixels.append(result)
    if not rows:
        check_readable(images.source, dict(skipped), len(images))
    return ImageDataset(
        images=pack(pixels),
        ids=images.ids[rows],
        labels=images.labels[rows],
        classes=images.classes,
        names=tuple(images.names[row] for row in rows),
        source=images.source,
        skipped=(*images.skipped, *skipped),
        captions=None if images.captions is None else tuple(images.captions[row] for row in rows),
    )


def readable(
    files: Files, groups: Groups, classes: tuple[str, ...], failed: dict[str, str]
) -> list[tuple[list[Entry], dict[str, Any]]]:
    """Return for every group the entries that did not fail, and the fields that both kinds of data set share.

    Raises:
        ValueError: a group has no such entry.
    """
    parts = []
    captioned = all(entry.captions for _, entries in groups for entry in entries)
    refused = files.skipped + unread_images(files.names)
    for name, entries in groups:
        good = [entry for entry in entries if entry.path not in failed]
        if not good:
            raise ValueError(f"none of the {len(entries)} {name} images in {files.source} can be read")
        bad = tuple((entry.name, failed[entry.path]) for entry in entries if entry.path in failed)
        fields = {
            "ids": torch.tensor([entry.id for entry in good], dtype=torch.int64),
            "labels": class_labels(good, classes),
            "classes": classes,
            "names": tuple(entry.name for entry in good),
            "source": f"{files.source} ({name})",
            "skipped": bad + refused,
            "captions": tuple(entry.captions for entry in good) if captioned else None,
        }
        parts.append((good, fields))
        refused = ()
    return parts


Listed = TypeVar("Listed", bound=ImageDataset | ImageIndex)


def label_splits(splits: Splits, mapping: Labels) -> Splits:
    """Return `splits` with the classes of `mapping`; a split with no image in it keeps its own classes.

    Raises:
        ValueError: `mapping` names an image that neither split has, or the test images have classes that the training
            images lack.
    """
    sets = [splits.train] + ([] if splits.test is None else [splits.test])
    known = {name: (part, row) for part, dataset in enumerate(sets) for row, name in enumerate(dataset.names)}
    found = places(mapping, known, splits.train.source)
    named = {part for part, _ in found}
    train, *tests = (
        numbered(dataset, [found.get((part, row)) for row in range(len(dataset))]) if part in named else dataset
        for part, dataset in enumerate(sets)
    )
    return Splits(train, renumbered(tests[0], train.classes) if tests else None)


def numbered(dataset: Listed, kinds: Sequence[str | None]) -> Listed:
    """Return `dataset` with the class `kinds[i]` for image i."""
    classes = tuple(sorted({kind for kind in kinds if kind is not None}))
    index: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index.get(kind, -1) for kind in kinds], dtype=torch.int64)
    return replace(dataset, labels=labels, classes=classes)


def unlabelled(dataset: Listed) -> Listed:
    """Return `dataset` without its classes."""
    return replace(dataset, labels=torch.full_like(dataset.labels, -1), classes=())


def renumbered(dataset: Listed, classes: tuple[str, ...]) -> Listed:
    """Return `dataset` with its labels translated to indices into `classes`.

    Raises:
        ValueError: it has classes outside `classes`.
    """
    check_classes(dataset.classes, classes, dataset.source)
    order = torch.tensor([*(classes.index(name) for name in dataset.classes), -1])  # label -1 selects the last: unknown
    return replace(dataset, labels=order[dataset.labels], classes=classes)
