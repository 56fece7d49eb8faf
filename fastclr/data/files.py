"""What a folder and an archive have in common: a list of names and a way to read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastclr.data.storage import Storage

# the decoded size of a data set is estimated from one image header in this many
SAMPLE_EVERY = 64

Reader = Callable[[Collection[str]], Iterator[tuple[str, "bytes | Path"]]]


@dataclass(frozen=True)
class Files:
    """The regular files of a folder or archive.

    Args:
        source: path of the folder or archive.
        names: relative paths with ``/`` between folders, sorted; hidden files and folders are left out.
        skipped: ``(name, reason)`` of what is no regular file inside the source: links, pipes, unsafe names.
        sizes: height and width of a sample of the images, as their headers state them.
        read: yields ``(name, content or path)`` of the files asked for, in the order in which they are stored.
        storage: returns random access to the image files asked for, in the order asked for; a ValueError says so where
            there is none, as in a compressed archive.
    """

    source: str
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int], ...]
    read: Reader
    storage: Callable[[Sequence[str]], Storage]


def hidden(name: str) -> bool:
    """Return whether a part of the path begins with a dot or belongs to macOS's archive metadata."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
