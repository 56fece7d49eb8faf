"""Classes from a CSV file, for images that are not in class folders."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from fastclr.sources.entries import Entry

Labels = Mapping[str, str | None]


def read_labels(path: str | Path) -> dict[str, str | None]:
    """Read a CSV file with the columns ``name`` and ``label``; other columns are ignored.

    Returns:
        The class of each name, both in Unicode's composed form; None where the label is empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8 text, lacks a column, names no image, or names one twice with different labels.
    """
    found: dict[str, str | None] = {}
    with open(Path(path).expanduser(), newline="", encoding="utf-8-sig") as file:  # spreadsheets write a BOM
        rows = csv.DictReader(file, strict=True)
        try:
            if missing := {"name", "label"} - set(rows.fieldnames or ()):
                raise ValueError(
                    f"its first line must have the columns name and label, but lacks {' and '.join(sorted(missing))}"
                )
            for row in rows:
                # file systems spell a name in other ways than spreadsheets do
                name, label = (unicodedata.normalize("NFC", row[key] or "") for key in ("name", "label"))
                if not name:
                    raise ValueError(f"line {rows.line_num} has no name")
                if found.setdefault(name, label or None) != (label or None):
                    raise ValueError(
                        f"line {rows.line_num}: {name!a} was {found[name]!a} before and is {label or None!a} now"
                    )
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from error
    if not found:
        raise ValueError(f"{path} names no image")
    return found


def label_entries(groups: Mapping[str, list[Entry]], mapping: Labels, source: str) -> dict[str, list[Entry]]:
    """Return the entries of each split with the classes of `mapping`; a split with no image in it keeps its own.

    A file is named by its path in the source, with or without the folders that wrap everything, in any spelling of
    Unicode.

    Raises:
        ValueError: `mapping` names a file that does not exist.
    """

    def keys(split: str, entry: Entry) -> tuple[str, str]:
        path, name = (unicodedata.normalize("NFC", text) for text in (entry.path, entry.name))
        return path, name if len(groups) == 1 else f"{split}/{name}"

    known = {key for split, entries in groups.items() for entry in entries for key in keys(split, entry)}
    check_names(mapping, known, source)
    labelled = {}
    for split, entries in groups.items():
        named = [next((key for key in keys(split, entry) if key in mapping), None) for entry in entries]
        kinds = [None if key is None else mapping[key] for key in named]
        labelled[split] = (
            [replace(entry, kind=kind) for entry, kind in zip(entries, kinds, strict=True)]
            if any(key is not None for key in named)
            else entries
        )
    return labelled


def check_names(mapping: Labels, known: Collection[str], source: str) -> None:
    """Raise ValueError if `mapping` has a name that is not in `known`."""
    present = set(known)
    if unknown := sorted(name for name in mapping if name not in present):
        listed = ", ".join(f"{name!a}" for name in unknown[:5])
        raise ValueError(f"the labels name {len(unknown)} images that {source} does not have: {listed}")


def check_classes(found: tuple[str, ...], known: tuple[str, ...], source: str) -> None:
    """Raise ValueError if `found` has a class that is not in `known`."""
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(
            f"{source} has {len(unknown)} test classes that the training set lacks: {', '.join(unknown[:5])}; "
            f"the training set has {', '.join(known[:5])}" + (", ..." if len(known) > 5 else "")
        )
