"""Make data sets of listed files: decoded ones, and indices of files to decode later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastclr.data.dataset import ImageDataset
from fastclr.data.files import Files
from fastclr.data.gather import DecodeOptions, check_readable, decode_files, pack
from fastclr.data.header import Header
from fastclr.data.index import ImageIndex, check_headers
from fastclr.data.labels import check_classes
from fastclr.data.layout import Entry

Groups = list[tuple[str, list[Entry]]]


def class_names(entries: list[Entry]) -> tuple[str, ...]:
    """Return the sorted names of the classes."""
    return tuple(sorted({entry.kind for entry in entries if entry.kind is not None}))


def class_labels(entries: list[Entry], classes: tuple[str, ...]) -> Tensor:
    """Return the index into ``classes`` of every entry, int64 ``[N]``; -1 where the class is unknown."""
    index = {name: i for i, name in enumerate(classes)}
    return torch.tensor([-1 if e.kind is None else index[e.kind] for e in entries], dtype=torch.int64)


def decode_entries(
    files: Files, groups: Groups, classes: tuple[str, ...], options: DecodeOptions
) -> list[ImageDataset]:
    """Decode several named groups of entries in one pass and return a data set for each.

    Raises:
        ValueError: a group has classes outside ``classes`` or no readable image, or decoding fails as a whole.
    """
    for _, entries in groups:
        check_classes(class_names(entries), classes, files.source)
    decoded, failed = decode_files(files, [entry.path for _, entries in groups for entry in entries], options)
    sets = []
    for good, fields in readable(files, groups, classes, failed):
        sets.append(ImageDataset(images=pack([decoded.pop(entry.path) for entry in good]), **fields))
    return sets


def index_entries(files: Files, groups: Groups, classes: tuple[str, ...], options: DecodeOptions) -> list[ImageIndex]:
    """Check the headers of several named groups of entries and return an index for each.

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
    for path, header in zip(paths, check_headers(storage, options.workers), strict=True):
        if isinstance(header, Header):
            headers[path] = header
        else:
            failed[path] = header
    check_readable(files.source, failed, len(paths))
    row = {path: index for index, path in enumerate(paths)}
    sets = []
    for good, fields in readable(files, groups, classes, failed):
        found = [headers[entry.path] for entry in good]
        part = storage.select(torch.tensor([row[entry.path] for entry in good]))
        index = ImageIndex(
            storage=replace(part, sizes=np.array([header.size for header in found], dtype=np.int64)),
            sizes=torch.tensor([(header.height, header.width) for header in found], dtype=torch.int64),
            plain=torch.tensor([header.plain for header in found]),
            resize_shorter=options.resize_shorter,
            **fields,
        )
        sets.append(index)
    return sets


def readable(
    files: Files, groups: Groups, classes: tuple[str, ...], failed: dict[str, str]
) -> list[tuple[list[Entry], dict[str, Any]]]:
    """Return for every group the entries that did not fail, and the fields that all data sets have.

    Raises:
        ValueError: nothing of a group is left.
    """
    parts = []
    refused = files.skipped
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
        }
        parts.append((good, fields))
        refused = ()
    return parts
