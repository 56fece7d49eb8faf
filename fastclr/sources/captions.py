"""Captions of images: from text or JSON beside an image or in its sample, cleaned and bounded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastclr.sources.entries import Entry, Source

KINDS = ("auto", "txt", "json")
MAX_BYTES = 2**20  # of a file with the captions of one image
MAX_CHARACTERS = 10_000  # of one caption; text towers read the first hundred words
JSON_KEYS = ("caption", "captions", "text")
SHOWN = 5
NO_CAPTION = "no caption: "


@dataclass(frozen=True)
class CaptionOptions:
    """Where the captions of a source are.

    Args:
        place: ``txt`` or ``json``: files of this kind, beside the images or in their samples; ``auto``: the ``.txt`` of
            an image, else its ``.json``, or what the source itself has (a column, an array, the items of a Dataset);
            otherwise the path of a table, see :mod:`fastclr.sources.caption_table`.
        key: of the captions in a ``.json``, an item or a ``.npz``, or their column in parquet and Arrow; empty: the
            first of `JSON_KEYS`, in items and columns also ``title``.
        columns: header of the images and of the captions in a table; None: as `caption_table` says, and in parquet and
            Arrow as for ``key``.

    Raises:
        ValueError: a value is empty.
    """

    place: str = "auto"
    key: str = ""
    columns: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.place:
            raise ValueError(f"captions must be one of {', '.join(KINDS)}, or a table, got {self.place!r}")
        if self.columns is not None and not all(self.columns):
            raise ValueError(f"caption_columns must be two names of columns, got {self.columns}")

    @property
    def is_table(self) -> bool:
        """Whether a table was named."""
        return self.place not in KINDS

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of images with captions, or the entries of an item, that may hold these; the first one counts."""
        own = self.columns[1] if self.columns else self.key
        return (own,) if own else (*JSON_KEYS, "title")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files, the first of which counts."""
        return ("txt", "json") if self.place == "auto" else (self.place,)


def read_captions(content: bytes, suffix: str, key: str = "") -> tuple[str, ...]:
    """Return the captions in a ``.txt`` or ``.json`` file.

    Every line of a ``.txt`` is a caption. In a ``.json`` it is the text, or are the texts of the list, under a key.

    Args:
        content: the first `MAX_BYTES` + 1 bytes of the file.
        suffix: ``txt`` or ``json``.
        key: of a ``.json``; empty: the first of ``caption``, ``captions`` and ``text`` that it has.

    Raises:
        ValueError: the file is empty, too large, no UTF-8, no JSON, or without a caption that can be used.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    text = content.removeprefix(b"\xef\xbb\xbf").decode()
    if suffix == "txt":
        return clean(text.splitlines())
    try:
        found: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    keys = (key,) if key else JSON_KEYS
    if not isinstance(found, dict) or not set(keys) & set(found):
        raise ValueError(f"it has no {' or '.join(ascii(each) for each in keys)}")
    value = next(found[each] for each in keys if each in found)
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError(f"a caption must be text or a list of texts, got {str(value)[:50]!a}")
    return clean(texts)


def captions_of(value: Any) -> tuple[str, ...] | str:
    """Return the captions in a text, in bytes of UTF-8, or in a list or array of these; or why there are none."""
    if value is None:
        return "it has none"
    found = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
    texts = list(found) if isinstance(found, (list, tuple)) else [found]
    try:
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts if text is not None]
        if odd := [text for text in texts if not isinstance(text, str)]:
            return f"a caption must be text or a list of texts, got {type(odd[0]).__name__}"
        return clean(texts)
    except ValueError as error:  # bytes that are no UTF-8 among them
        return str(error)


def clean(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts with single spaces between their words, without empty ones and without repetitions.

    Raises:
        ValueError: none is left, or one is no Unicode or longer than `MAX_CHARACTERS`.
    """
    found = dict.fromkeys(" ".join(text.split()) for text in texts)
    found.pop("", None)
    for text in found:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"a caption has {len(text)} characters, more than {MAX_CHARACTERS}")
        try:
            # half of a surrogate pair, which JSON admits, and numbers beyond all characters, which NumPy admits
            text.encode().decode()
        except UnicodeError as error:
            raise ValueError("a caption is no text in UTF-8") from error
    if not found:
        raise ValueError("it is empty")
    return tuple(found)


def caption_beside(source: Source, options: CaptionOptions) -> Source:
    """Return the images of a folder or archive with the captions in files beside them, ``a/b.txt`` for ``a/b.jpg``.

    Images without a caption are left out and named in ``uncaptioned``; their neighbours keep their ids.

    Raises:
        ValueError: these are more than half.
    """
    names = {f"{stem}.{end.lower()}": name for name in source.files.names for stem, _, end in [name.rpartition(".")]}
    images: dict[str, list[str]] = {}  # by the file with their captions
    found: dict[str, tuple[str, ...] | str] = {}
    for entry in (entry for group in source.groups.values() for entry in group):
        sides = [f"{entry.path.rpartition('.')[0]}.{suffix}" for suffix in options.suffixes]
        name = next((names[side] for side in sides if side in names), None)
        if name is None:
            found[entry.path] = f"there is no {' or '.join('.' + end for end in options.suffixes)} beside it"
        else:
            images.setdefault(name, []).append(entry.path)
    for name, encoded in source.files.stream(images):
        captions: tuple[str, ...] | str
        try:
            captions = read_captions(encoded.read(refuse_large), name.rpartition(".")[2].lower(), options.key)
        except (ValueError, OSError) as error:
            captions = f"{name!a}: {error}"
        found |= dict.fromkeys(images[name], captions)
    return attach(source, found)


def refuse_large(head: bytes, size: int) -> None:
    """Raise a ValueError before a file is read that is too large for captions."""
    if size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")


def attach(source: Source, found: Mapping[str, tuple[str, ...] | str]) -> Source:
    """Return the images that have captions, with them; the others are left out and named.

    Args:
        source: the images.
        found: by path of an image: its captions, or why it has none.

    Raises:
        ValueError: more than half of the images have none.
    """
    groups: dict[str, list[Entry]] = {}
    bad: list[tuple[str, str]] = []
    for split, entries in source.groups.items():
        for entry in entries:
            captions = found[entry.path]
            if isinstance(captions, str):
                bad.append((entry.path, NO_CAPTION + captions))
            else:
                groups.setdefault(split, []).append(replace(entry, captions=captions))
    check_captioned(source.files.source, bad, sum(map(len, source.groups.values())))
    files = replace(source.files, skipped=source.files.skipped + tuple(bad))
    return replace(source, files=files, groups=groups, uncaptioned=tuple(bad))


def check_captioned(source: str, bad: Sequence[tuple[str, str]], total: int) -> None:
    """Raise a ValueError if more than half of the images of a source have no caption.

    Args:
        source: where they are, for the message.
        bad: ``(name, reason)`` of those that have none.
        total: the number of all.
    """
    if 2 * len(bad) > total:
        listed = "; ".join(f"{path!a}: {reason.removeprefix(NO_CAPTION)}" for path, reason in bad[:SHOWN])
        raise ValueError(f"{len(bad)} of the {total} images of {source} have no caption: {listed}")
