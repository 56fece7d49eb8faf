"""Stamps of files, by which changed ones are known without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fastclr.sources.shards import find_shards


def stamp(source: str, names: Sequence[str]) -> str:
    """Return a digest of size and time of change of the files that hold images; of addresses, of the names alone.

    Args:
        source: a folder, an archive or a table, or a pattern of shards.
        names: of the images: paths within the folder, if they are files of it.
    """
    place = Path(source).expanduser()
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = [place / name for name in names]
        if not all(file.is_file() for file in files):  # they lie in shards or tables
            files = sorted(file for file in place.rglob("*") if file.is_file())
    else:
        files = [path for path in find_shards(source).values() if isinstance(path, Path)]
    marks = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
    return hashlib.blake2b(repr((list(names), marks)).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
