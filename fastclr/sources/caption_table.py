"""Captions in a CSV or TSV file, one row a caption, as open_clip takes them: columns ``filepath`` and ``title``."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from fastclr.sources.byte_ranges import Encoded, Storage
from fastclr.sources.captions import MAX_BYTES, CaptionOptions, attach, clean
from fastclr.sources.entries import Entry, Source
from fastclr.sources.folder import SAMPLE_EVERY, Files, sampled_size
from fastclr.sources.label_file import DELIMITERS, plain

SUFFIXES = (".csv", ".tsv")
# names of columns, the first of which counts
IMAGES = ("filepath", "file_name", "name", "image", "path")
CAPTIONS = ("title", "caption", "captions", "text")


@dataclass(frozen=True)
class CaptionTable:
    """The rows of a file.

    Args:
        path: of the file.
        captions: of each image, in the order of the rows: its captions, or why it has none.
        paths: of each image, as the table has it.
        skipped: ``(line, reason)`` of rows that name no image.
    """

    path: Path
    captions: dict[str, tuple[str, ...] | str]
    paths: dict[str, str]
    skipped: tuple[tuple[str, str], ...]


def is_caption_table(name: str) -> bool:
    """Return whether ``name`` has the suffix of such a file."""
    return name.lower().endswith(SUFFIXES)


def read_table(path: Path, options: CaptionOptions) -> CaptionTable:
    """Read a table of captions, separated by commas, semicolons or tabs, whichever the first line has.

    Rows with the same image give it several captions. A row whose caption is empty, too long or not UTF-8, or that
    names no image, is left out and named.

    Args:
        path: the file.
        options: the two columns; without, the first of ``filepath``, ``file_name``, ``name``, ``image`` and ``path``,
            and the first of ``title``, ``caption``, ``captions`` and ``text``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column, or names no image.
    """
    texts: dict[str, dict[str, None]] = {}
    paths: dict[str, str] = {}
    reasons: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    # what is no UTF-8 becomes surrogates, which `clean` refuses, so that one row does not cost the others
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        image, text, delimiter = header(file.readline(MAX_BYTES), options, path)
        rows = csv.reader(bounded(file), delimiter=delimiter)
        while True:
            where = f"{path.name}, line {rows.line_num + 2}"
            try:
                row = next(rows, None)
            except csv.Error as error:  # a field of more than 131,072 characters
                skipped.append((where, f"no caption: {error}"))
                continue
            if row is None:
                break
            if not row:
                continue
            name = plain(row[image]) if len(row) > image and row[image] else ""
            if not name or "\0" in name:
                skipped.append((where, "no caption: the row names no image"))
                continue
            paths.setdefault(name, row[image].replace("\\", "/"))
            known = texts.setdefault(name, {})
            try:
                known.update(dict.fromkeys(clean([row[text] if len(row) > text else ""])))
            except ValueError as error:
                reasons.setdefault(name, f"line {rows.line_num + 1}: {error}")
    if not texts:
        raise ValueError(f"{path} names no image")
    captions = {name: tuple(found) or reasons[name] for name, found in texts.items()}
    return CaptionTable(path, captions, paths, tuple(skipped))


def header(line: str, options: CaptionOptions, path: Path) -> tuple[int, int, str]:
    """Return the columns of images and captions, from 0, and what separates them.

    Raises:
        ValueError: one is missing.
    """
    images, captions = (IMAGES, CAPTIONS) if options.columns is None else [(each.lower(),) for each in options.columns]
    best: list[str] = []
    for delimiter in DELIMITERS:
        parts = [part.strip().lower() for part in next(csv.reader([line], delimiter=delimiter), [])]
        image = next((parts.index(each) for each in images if each in parts), None)
        text = next((parts.index(each) for each in captions if each in parts), None)
        if image is not None and text is not None and image != text:
            return image, text, delimiter
        best = max(best, parts, key=len)
    raise ValueError(
        f"{path}: its first line must have a column for images ({', '.join(images)}) and one for captions "
        f"({', '.join(captions)}), separated by {', '.join(DELIMITERS.values())}, got "
        f"{ascii(', '.join(best)[:200]) if line.strip() else 'none'}: --caption-columns IMAGES CAPTIONS names them"
    )


def bounded(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file; one of more than `MAX_BYTES` characters is cut, and never held as a whole."""
    while line := file.readline(MAX_BYTES):
        whole = line
        while not line.endswith(("\n", "\r")) and (line := file.readline(MAX_BYTES)):
            whole = whole if whole.endswith("\n") else whole + "\n"
        yield whole


def caption_by_table(source: Source, table: CaptionTable) -> Source:
    """Return the images of a source with the captions that a table has for them; the others are left out and named.

    An image is named by its path in the source, with or without the folder of its split, or by the path of its file:
    absolute, or relative to the table or the current folder.

    Raises:
        ValueError: more than half of the images have none.
    """
    forms = dict(table.captions)
    root = os.path.abspath(source.files.source)
    for name, captions in table.captions.items():
        for folder in (table.path.parent, Path()):
            absolute = os.path.abspath(folder / name)
            if absolute.startswith(root + os.sep):
                forms.setdefault(plain(absolute[len(root) + 1 :]), captions)
        top, _, rest = name.partition("/")
        if top == Path(root).name:
            forms.setdefault(rest, captions)
    found: dict[str, tuple[str, ...] | str] = {}
    for entry in (entry for group in source.groups.values() for entry in group):
        names = (plain(entry.path), plain(entry.name))
        found[entry.path] = next((forms[name] for name in names if name in forms), f"it is not in {table.path}")
    return with_skipped(attach(source, found), table)


def index_caption_table(path: Path, options: CaptionOptions | None) -> Source:
    """List the images that a table of captions names, as a source of its own, in the order of their first rows.

    Relative paths are relative to the folder of the table, or to the current one if the first image lies there.

    Args:
        path: the table.
        options: its columns, if captions are asked for.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column, or names no image; or more than half of the images have no caption.
    """
    table = read_table(path, CaptionOptions() if options is None else options)
    first = next(iter(table.paths.values()))
    folder = Path() if not (path.parent / first).exists() and Path(first).exists() else path.parent
    names = tuple(table.captions)
    sizes = [size for name in names[::SAMPLE_EVERY] if (size := sampled_size(folder / table.paths[name]))]

    def stream(wanted: Collection[str]) -> Iterator[tuple[str, Encoded]]:
        chosen = set(wanted)
        ordered = [name for name in names if name in chosen]
        files = storage(ordered)
        for row, name in enumerate(ordered):
            yield name, files.encoded(row)

    def storage(wanted: Sequence[str]) -> Storage:
        return Storage.of_files(os.path.abspath(folder / table.paths[name]) for name in wanted)

    files = Files(str(path), names, (), tuple(sizes), stream, storage)
    source = Source(files, {"train": [Entry(name, name, row, None) for row, name in enumerate(names)]})
    return source if options is None else with_skipped(attach(source, table.captions), table)


def with_skipped(source: Source, table: CaptionTable) -> Source:
    """Return a source that also names the rows of a table that name no image."""
    files = replace(source.files, skipped=source.files.skipped + table.skipped)
    return replace(source, files=files, uncaptioned=(source.uncaptioned or ()) + table.skipped)
