"""Read parquet and Arrow files with a column of encoded images, as Hugging Face's datasets are stored."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastclr.sources.byte_ranges import Encoded, Paths, Storage
from fastclr.sources.captions import CaptionOptions, attach, captions_of
from fastclr.sources.decode import image_size, is_image_name
from fastclr.sources.entries import TEST_SPLITS, Entry, Source, split_folders
from fastclr.sources.folder import Files
from fastclr.sources.labels import as_label
from fastclr.sources.packages import needed
from fastclr.sources.tar import member_image

SUFFIXES = (".parquet", ".arrow")
IMAGES = ("image", "img", "jpg", "png")  # names of columns
LABELS = ("label", "labels", "fine_label", "target", "class")
ROWS = 64  # that are read at a time
SAMPLES = 16  # rows between those whose size is looked at, among the first of each file


def is_table(name: str) -> bool:
    """Return whether ``name`` has the suffix of a table."""
    return name.lower().endswith(SUFFIXES)


def is_table_folder(files: Files) -> bool:
    """Return whether a folder holds tables and no images."""
    return any(is_table(name) for name in files.names) and not any(is_image_name(name) for name in files.names)


def arrow() -> Any:
    """Return the module ``pyarrow`` with ``pyarrow.parquet``; a ModuleNotFoundError says how to get it."""
    for module in ("pyarrow.parquet", "pyarrow"):
        found = needed(module, "parquet needs pyarrow", "export")
    return found


def index_tables(tables: dict[str, Path], source: str, captions: CaptionOptions | None = None) -> Source:
    """List the rows of parquet and Arrow files.

    Images are in a column of encoded files, bytes or ``{bytes, path}``; labels in a column of numbers or names, with
    the names that Hugging Face's metadata gives to numbers; captions in a column of texts or of lists of texts. Rows
    are numbered across the files of a split, sorted by name. The split of a file is the first word of its name, as in
    ``train-00000-of-00002.parquet``, or its folder.

    Args:
        tables: paths by name, with ``/`` between folders.
        source: the folder or file that they come from, for messages.
        captions: the columns of images and captions, if these are asked for; rows without are left out and named.

    Raises:
        ValueError: a file is damaged, or has no column of images or of captions, or more than half have no caption.
        ModuleNotFoundError: pyarrow is not installed.
    """
    if captions is not None and captions.place != "auto":
        raise ValueError(f"captions={captions.place!r} is for files of text, and {source} has a column of them: auto")
    told: dict[str, tuple[str, ...] | str] = {}
    words = {name: first_word(name) for name in sorted(tables)}
    folders = split_folders(set(words.values()))
    groups = {
        split: [name for name in words if words[name] == folders[split]]
        for split in ("train", *TEST_SPLITS)
        if split in folders
    }
    sizes: list[tuple[int, int]] = []
    paths: dict[str, list[str]] = {}  # of the rows of each file
    entries: dict[str, list[Entry]] = {}
    classes: tuple[str, ...] = ()
    for split, names in (groups or {"train": list(words)}).items():
        rows: list[Entry] = []
        for name in names:
            with opened(tables[name], captions) as table:
                kinds, known = table.kinds()
                classes = classes if len(classes) >= len(known) else known
                width = len(str(max(len(kinds) - 1, 0)))
                paths[name] = [f"{name}/{row:0{width}d}" for row in range(len(kinds))]
                rows += [
                    Entry(path, path, len(rows) + row, kind)
                    for row, (path, kind) in enumerate(zip(paths[name], kinds, strict=True))
                ]
                sizes += table.sizes()
                if captions is not None:
                    told |= dict(zip(paths[name], table.captions(), strict=True))
        entries[split] = rows
    if not classes:
        numbers = {entry.kind for rows in entries.values() for entry in rows if entry.kind is not None}
        if numbers and all(kind.isdecimal() and kind == str(int(kind)) for kind in numbers):
            classes = tuple(str(number) for number in range(max(map(int, numbers)) + 1))

    def stream(wanted: Collection[str]) -> Iterator[tuple[str, Encoded]]:
        remaining = set(wanted)
        for name in paths:
            with opened(tables[name], captions) as table:
                for path, image in zip(paths[name], table.images(), strict=True):
                    if path in remaining:
                        yield path, image

    def storage(wanted: Sequence[str]) -> Storage:
        files = list(paths)
        places: dict[str, tuple[int, int, int]] = {}
        for number, name in enumerate(files):
            found = image_places(tables[name], captions)
            if found is None:
                raise ValueError(
                    f"{tables[name]} has its images compressed or in pages: images can be streamed from a folder, an "
                    "uncompressed archive or a plain Arrow file only, as Dataset.save_to_disk writes it; keep all "
                    "images in memory (loader resident)"
                )
            places |= {path: (number, *place) for path, place in zip(paths[name], found, strict=True)}
        chosen = np.array([places[path] for path in wanted], dtype=np.int64).reshape(-1, 3)
        real = Paths(os.path.realpath(tables[name]) for name in files)
        return Storage(real, chosen[:, 0].copy(), chosen[:, 1].copy(), chosen[:, 2].copy())

    # rows have names without a suffix, which would count as files of unknown kinds
    files = Files(source, (), (), tuple(sizes), stream, storage)
    listed = Source(files, {split: rows for split, rows in entries.items() if rows}, classes or None)
    return listed if captions is None else attach(listed, told)


def first_word(name: str) -> str:
    """Return the word that may name the split of a file: that of its name, else its folder."""
    *folders, base = name.split("/")
    word = re.split(r"[-_.]", base)[0]
    return word if split_folders({"train", word}).keys() > {"train"} or word == "train" else (folders or [word])[-1]


class Table:
    """One file that is open.

    Args:
        file: pyarrow's ParquetFile, or a reader of record batches.
        schema: its columns.
        title: its path, for messages.
        captions: the columns of images and captions, if these are asked for.

    Raises:
        ValueError: it has no column of images, or of captions.
    """

    def __init__(self, file: Any, schema: Any, title: str, captions: CaptionOptions | None = None) -> None:
        self.file, self.schema, self.title = file, schema, title
        about: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features"):
            about = about.get(key) if isinstance(about, dict) else None
        self.features: dict[str, Any] = about if isinstance(about, dict) else {}
        images = [name for name in schema.names if self._kind(name) == "Image"]
        images += [name for name in IMAGES if name in schema.names and self._has_bytes(name)]
        images += [name for name in schema.names if self._has_bytes(name)]
        there = ", ".join(schema.names) or "none"
        if captions is not None and captions.columns:
            images = [name for name in images if name == captions.columns[0]]
        if not images:
            raise ValueError(f"{title} must have a column of encoded images, got {there}")
        self.image = images[0]
        self.label = next((name for name in LABELS if name in schema.names), None)
        texts = [name for name in (captions.names if captions else ()) if name in schema.names]
        if captions is not None and not texts:
            raise ValueError(
                f"{title} must have a column of captions ({', '.join(captions.names)}), got {there}: "
                "--caption-columns IMAGES CAPTIONS names it"
            )
        self.text = texts[0] if texts else ""

    def _kind(self, name: str) -> str:
        """Return what Hugging Face's metadata says that a column is."""
        feature = self.features.get(name)
        return str(feature.get("_type", "")) if isinstance(feature, dict) else ""

    def _has_bytes(self, name: str) -> bool:
        """Return whether a column holds bytes, or structures with bytes."""
        kind, pa = self.schema.field(name).type, arrow()
        if pa.types.is_struct(kind):
            kind = next((kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == "bytes"), kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def batches(self, column: str, *, texts: bool = False) -> Iterator[list[Any]]:
        """Yield the values of a column, a few rows at a time; texts as bytes, which may be no UTF-8."""
        if hasattr(self.file, "iter_batches"):
            for batch in self.file.iter_batches(ROWS, columns=[column]):
                values = batch.column(0)
                yield (texts_as_bytes(values) if texts else values).to_pylist()
            return
        place = self.schema.get_field_index(column)
        for batch in self.file():
            batch.validate()
            values = texts_as_bytes(batch.column(place)) if texts else batch.column(place)
            values.validate(full=True)  # else offsets of a damaged file would be read through
            for start in range(0, len(values), ROWS):
                yield values.slice(start, ROWS).to_pylist()

    def captions(self) -> Iterator[tuple[str, ...] | str]:
        """Yield the captions of each row, or why it has none."""
        for values in self.batches(self.text, texts=True):
            yield from map(captions_of, values)

    def images(self) -> Iterator[Encoded]:
        """Yield the image of each row, to be read before the next one is asked for."""
        for values in self.batches(self.image):
            for value in values:
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Encoded(no_bytes) if data is None else member_image(io.BytesIO(data), len(data))

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of some of the first images."""
        found = []
        for values in self.batches(self.image):
            for value in values[::SAMPLES]:
                data = value.get("bytes") if isinstance(value, dict) else value
                found.append(image_size(io.BytesIO(data)) if data else None)
            break
        return [size for size in found if size is not None]

    def kinds(self) -> tuple[list[str | None], tuple[str, ...]]:
        """Return the class of each row, and the names of the classes if the file has them in an order of their own.

        Raises:
            ValueError: a label is neither a number nor a name.
        """
        if self.label is None:
            return [None for values in self.batches(self.image) for _ in values], ()
        feature = self.features.get(self.label)
        listed = feature.get("names") if isinstance(feature, dict) else None
        names = tuple(map(str, listed)) if isinstance(listed, list) else ()
        kinds: list[str | None] = []
        for values in self.batches(self.label):
            for value in values:
                try:
                    kinds.append(kind_of(value, names))
                except ValueError as error:
                    raise ValueError(
                        f"{self.title}: the label of row {len(kinds)} in column {self.label!a} cannot be used: {error} "
                        "(without this column the images are unlabelled)"
                    ) from error
        return kinds, names if len(set(names)) == len(names) else ()


def kind_of(value: object, names: Sequence[str]) -> str | None:
    """Return the class that a label stands for, by `names` if it is a number and there are some; None if unknown.

    Raises:
        ValueError: it is neither a number nor a name, or a number without a name where there are some.
    """
    value = value.decode() if isinstance(value, bytes) else value
    value = value.strip() or None if isinstance(value, str) else value
    if value is None or value != value:  # NaN
        return None
    label = as_label(int(value) if isinstance(value, bool) else value)
    if label == -1 or isinstance(value, str):
        return None if label == -1 else str(value)  # 01 is a name
    if names and int(label) >= len(names):
        raise ValueError(f"it is {label}, of {len(names)} classes")
    return names[int(label)] if names else str(label)


def texts_as_bytes(values: Any) -> Any:
    """Return an array of texts, or of lists of texts, as one of bytes, so that one that is no UTF-8 stands alone."""
    pa = arrow()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    several = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    inner = values.type.value_type if several else values.type
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        return values
    kind = pa.large_binary() if pa.types.is_large_string(inner) else pa.binary()
    if several:
        kind = (pa.large_list if pa.types.is_large_list(values.type) else pa.list_)(kind)
    return values.cast(kind)


def image_places(path: Path, captions: CaptionOptions | None = None) -> list[tuple[int, int]] | None:
    """Return first byte and size of the image of each row in an Arrow file; None where it is compressed, or parquet."""
    if path.suffix.lower() == ".parquet":
        return None
    pa = arrow()
    places: list[tuple[int, int]] = []
    with opened(path, captions) as table, pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
        column = table.schema.get_field_index(table.image)
        for batch in record_batches(pa, whole):
            batch.validate()
            values = batch.column(column)
            values.validate(full=True)  # else offsets of a damaged file would be read through
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            wide = pa.types.is_large_binary(values.type)
            if not (wide or pa.types.is_binary(values.type)):
                return None
            _, ends, data = values.buffers()
            if len(values) and data is not None:
                start = data.address - whole.address
                if not 0 <= start <= whole.size - data.size:  # decompressed, into memory of its own
                    return None
                kind = np.int64 if wide else np.int32
                offsets = np.frombuffer(ends, kind)[values.offset : values.offset + len(values) + 1].astype(np.int64)
                known = np.asarray(values.is_valid())
                sizes = np.where(known, np.diff(offsets), 0)
                places += zip((start + offsets[:-1]).tolist(), sizes.tolist(), strict=True)
            else:
                places += [(0, 0)] * len(values)
    return places


def record_batches(pa: Any, source: Any) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, of the streaming or the random access kind."""
    try:
        yield from pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        whole = pa.ipc.open_file(source)
        yield from (whole.get_batch(row) for row in range(whole.num_record_batches))


def no_bytes(admit: Any) -> bytes:
    """Raise an error for a row whose image lies elsewhere."""
    raise OSError("the table has no bytes of it")


@contextmanager
def opened(path: Path, captions: CaptionOptions | None = None) -> Iterator[Table]:
    """Open a parquet or Arrow file; whatever is wrong with it becomes a ValueError that names it."""
    pa = arrow()
    try:
        if path.suffix.lower() == ".parquet":
            with pa.parquet.ParquetFile(path) as file:
                yield Table(file, file.schema_arrow, str(path), captions)
        else:
            with pa.memory_map(str(path)) as mapped:

                def reader() -> Any:
                    mapped.seek(0)
                    try:
                        return pa.ipc.open_stream(mapped)
                    except pa.ArrowInvalid:
                        mapped.seek(0)
                        whole = pa.ipc.open_file(mapped)
                        return (whole.get_batch(row) for row in range(whole.num_record_batches))

                yield Table(reader, schema_of(pa, mapped), str(path), captions)
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def schema_of(pa: Any, mapped: Any) -> Any:
    """Return the columns of an Arrow file, of the streaming or the random access kind."""
    try:
        return pa.ipc.open_stream(mapped).schema
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_file(mapped).schema
