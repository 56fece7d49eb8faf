"""Classes from a CSV file, for images that are not in class folders."""

from __future__ import annotations

import csv
import os
import posixpath
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from fastclr.sources.entries import Entry

Labels = Mapping[str, str | None]


NAMES = ("name", "file_name")  # the second is that of Hugging Face's metadata.csv
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SHOWN = 5


class UnknownNames(ValueError):
    """A file of labels names images that a source does not have: ``names``."""

    def __init__(self, names: Collection[str], source: str) -> None:
        self.names = sorted(names)
        listed = ", ".join(f"{name!a}" for name in self.names[:SHOWN])
        super().__init__(f"the labels name {len(self.names)} images that are not in {source}: {listed}")


def read_labels(path: str | Path, source: str | Path | None = None) -> dict[str, str | None]:
    """Read a table with the columns ``name`` (or ``file_name``) and ``label``; other columns are ignored.

    The columns are separated by commas, semicolons or tabs, whichever the first line has; spaces around a value do not
    count.

    Args:
        path: the file.
        source: where the images are. Absolute names inside of it become relative; and if the file lies in a folder of
            the source, names may be relative to that folder, as those of Hugging Face's metadata.csv are.

    Returns:
        The class of each name, both in Unicode's composed form; None where the label is empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8 text, lacks a column, names no image, or names one twice with different labels.
    """
    path = Path(path).expanduser()
    found: dict[str, str | None] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a BOM
            columns, delimiter = read_header(file.readline())
            rows = csv.DictReader(file, columns, delimiter=delimiter, skipinitialspace=True, strict=True)
            name_column = next(column for column in columns if column in NAMES)
            for row in rows:
                # file systems spell a name in other ways than spreadsheets do
                name, text = (unicodedata.normalize("NFC", (row[key] or "").strip()) for key in (name_column, "label"))
                label = text or None
                line = rows.line_num + 1
                if not name:
                    raise ValueError(f"line {line} has no name")
                if found.setdefault(name, label) != label:
                    raise ValueError(f"line {line}: {name!a} was {found[name]!a} before and is {label!a} now")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    if not found:
        raise ValueError(f"{path} names no image")
    return found if source is None else below(found, path, Path(source).expanduser())


def read_header(line: str) -> tuple[list[str], str]:
    """Return the names of the columns and what separates them.

    Raises:
        ValueError: there is none for names or none for labels.
    """
    columns: list[str] = []
    for delimiter in DELIMITERS:
        parts = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        parts = [part.strip().lower() for part in parts]
        if "label" in parts and set(NAMES) & set(parts):
            return parts, delimiter
        columns = max(columns, parts, key=len)
    lacks = [*([] if set(NAMES) & set(columns) else ["name"]), *([] if "label" in columns else ["label"])]
    raise ValueError(
        f"its first line must have the columns name (or file_name) and label, separated by "
        f"{', '.join(DELIMITERS.values())}, but lacks {' and '.join(lacks)}: it has {', '.join(columns) or 'none'}"
    )


def below(labels: Labels, file: Path, source: Path) -> dict[str, str | None]:
    """Return labels under names relative to `source`, where they are absolute or relative to the folder of `file`."""
    root, folder = source.resolve(), file.resolve().parent
    inside = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."

    def moved(name: str) -> str:
        if os.path.isabs(name) and Path(name).is_relative_to(source.absolute()):
            return Path(name).relative_to(source.absolute()).as_posix()
        apart = inside != "." and not (root / name).exists()
        return f"{inside}/{plain(name)}" if apart and (root / inside / plain(name)).exists() else name

    return {moved(name): label for name, label in labels.items()}


def plain(name: str) -> str:
    """Return a name with ``/`` between folders, without ``./``, and in one way to write it in Unicode."""
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


Place = TypeVar("Place")


def places(
    labels: Labels, known: Mapping[str, Place], source: str, others: Collection[str] = ()
) -> dict[Place, str | None]:
    """Return the label of every place that a file of labels names.

    Args:
        labels: classes by name.
        known: places by name. A name may also be written as in `plain`, or begin with the last folder of the source.
        source: where the images are.
        others: further files of the source, whose labels are not used.

    Raises:
        UnknownNames: a name is neither.
        ValueError: one place has two names with different labels.
    """
    forms = {plain(name): place for name, place in known.items()}
    top = f"{Path(source).name}/"
    found: dict[Place, str | None] = {}
    unknown: list[str] = []
    for name, label in labels.items():
        form = plain(name)
        place = next((table[key] for table, key in ((known, name), (forms, form)) if key in table), None)
        if place is None and form.startswith(top):
            place = forms.get(form[len(top) :])
        if place is None:
            unknown.append(name)
        elif found.setdefault(place, label) != label:
            raise ValueError(f"the labels name {name!a} twice, as {found[place]!a} and as {label!a}")
    if unknown:
        beside = {plain(name) for name in others}
        if missing := [name for name in unknown if not {plain(name), plain(name).removeprefix(top)} & beside]:
            raise UnknownNames(missing, source)
    return found


def label_entries(
    groups: Mapping[str, list[Entry]], mapping: Labels, source: str, others: Collection[str] = ()
) -> dict[str, list[Entry]]:
    """Return the entries of each split with the classes of `mapping`; a split with no image in it keeps its own.

    A file is named by its path in the source, with or without the folders that wrap everything, in any spelling of
    Unicode.

    Args:
        groups: the entries of each split.
        mapping: classes by name.
        source: where the images are.
        others: files of the source that belong to no split; `mapping` may name them.

    Raises:
        ValueError: `mapping` names a file that does not exist.
    """
    known: dict[str, tuple[str, int]] = {}
    for split, entries in groups.items():
        for row, entry in enumerate(entries):
            known[entry.path] = split, row
            known.setdefault(entry.name if len(groups) == 1 else f"{split}/{entry.name}", (split, row))
    found = places(mapping, known, source, others)
    named = {split for split, _ in found}
    return {
        split: [replace(entry, kind=found.get((split, row))) for row, entry in enumerate(entries)]
        if split in named
        else entries
        for split, entries in groups.items()
    }


def check_classes(found: tuple[str, ...], known: tuple[str, ...], source: str) -> None:
    """Raise ValueError if `found` has a class that is not in `known`."""
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(
            f"{source} has {len(unknown)} test classes that the training set lacks: {', '.join(unknown[:5])}; "
            f"the training set has {', '.join(known[:5])}" + (", ..." if len(known) > 5 else "")
        )
