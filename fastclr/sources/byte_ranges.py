"""Random access to encoded images: whole files of a folder, or byte ranges of uncompressed archives."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fastclr.sources.remote import is_address, read_range

Integers = npt.NDArray[np.int64]
MAX_FILE_BYTES = 2**30
HEAD_BYTES = 32768  # enough for the header of nearly every file; the others are read whole
# gets the first bytes of a file and its size before the rest is read; may wait, or raise an error
Admit = Callable[[bytes, int], None]
# an entry that was replaced by a link or a pipe since it was listed must neither lead out of the folder nor hang
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
OPEN_FLAGS |= getattr(os, "O_BINARY", 0)  # of Windows


def admit_all(head: bytes, size: int) -> None:
    """Let everything be read."""


@dataclass(frozen=True)
class Encoded:
    """One encoded image that has not been read.

    Args:
        read: returns its bytes, after it has passed the first of them to its argument.
        size: number of bytes; -1 if that is known only when it is opened.
        in_sequence: whether it can be read only before the next one is asked for, as in a compressed archive.
    """

    read: Callable[[Admit], bytes]
    size: int = -1
    in_sequence: bool = False

    def fetched(self, limit: int) -> Encoded:
        """Read the image, and return it as one that can be read at any time; one larger than `limit` fails then."""

        head = b""

        def peek(first: bytes, size: int) -> None:
            nonlocal head
            head = first
            if size > limit:
                raise MemoryError(f"larger than {limit} bytes")

        def read(admit: Admit) -> bytes:
            admit(head, self.size)
            if isinstance(data, MemoryError):
                raise data
            return data

        data: bytes | MemoryError
        try:
            data = self.read(peek)
        except MemoryError as error:
            data = error
        return Encoded(read)


class Paths:
    """Many paths in one block of bytes.

    A forked worker that reads a tuple of strings changes their reference counts, and so copies the memory pages that
    hold them. One block stays shared, and is pickled in one piece.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        """Encode the paths."""
        encoded = [os.fsencode(path) for path in paths]
        self._block = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return the path at ``index``."""
        return os.fsdecode(self._block[self._ends[index] : self._ends[index + 1]])


@dataclass(frozen=True)
class Storage:
    """Where the bytes of each image are. It holds no open file, so threads, forked and spawned processes may share it.

    Args:
        files: absolute paths, or addresses of archives.
        file: int64 ``[N]``, the index into ``files`` of the file that holds an image.
        offsets: int64 ``[N]``, the image's first byte in that file.
        sizes: int64 ``[N]``, its number of bytes; -1 for the whole file.
    """

    files: Paths
    file: Integers
    offsets: Integers
    sizes: Integers

    @staticmethod
    def of_files(paths: Iterable[str]) -> Storage:
        """Return the storage of whole files."""
        files = Paths(paths)
        count = len(files)
        return Storage(files, np.arange(count), np.zeros(count, dtype=np.int64), np.full(count, -1, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.file)

    def select(self, rows: Integers) -> Storage:
        """Return the storage of the images at int64 ``rows`` ``[n]``."""
        return replace(self, file=self.file[rows], offsets=self.offsets[rows], sizes=self.sizes[rows])

    def read(self, row: int, admit: Admit = admit_all) -> bytes:
        """Return the bytes of an image.

        Raises:
            OSError: the file is gone, is no longer a regular file, has become shorter since it was listed, or is
                longer than ``MAX_FILE_BYTES``.
            Exception: whatever ``admit`` raises.
        """
        with self._opened(row) as (part, start, size):
            head = part(start, min(size, HEAD_BYTES))
            admit(head, size)
            return head if size == len(head) else part(start, size)

    def encoded(self, row: int) -> Encoded:
        """Return an image that is to be read later."""
        return Encoded(partial(self.read, row))

    def read_ends(self, row: int, head: int, tail: int) -> tuple[bytes, bytes, int]:
        """Return the first ``head`` and the last ``tail`` bytes of an image and its number of bytes.

        Raises:
            OSError: as for :meth:`read`.
        """
        with self._opened(row) as (part, start, size):
            first = part(start, min(head, size))
            last = min(tail, size)
            return first, part(start + size - last, last), size

    @contextmanager
    def _opened(self, row: int) -> Iterator[tuple[Callable[[int, int], bytes], int, int]]:
        """Open the file of an image; yield a function that reads a part, the first byte and the number of bytes."""
        start, size = int(self.offsets[row]), int(self.sizes[row])
        file = self.files[int(self.file[row])]
        if is_address(file):
            yield partial(read_range, file), start, size
            return
        descriptor = os.open(file, OPEN_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if size < 0:
                size = status.st_size
            elif start + size > status.st_size:
                raise OSError(f"changed since it was listed: {start + size} bytes then, {status.st_size} now")
            if size > MAX_FILE_BYTES:
                raise OSError(f"larger than {MAX_FILE_BYTES} bytes")
            yield partial(read_at, descriptor), start, size
        finally:
            os.close(descriptor)


def seek_and_read(descriptor: int, start: int, size: int) -> bytes:
    """Do what `os.pread` does, which Windows lacks; whoever reads has a descriptor of its own."""
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)


def read_at(descriptor: int, start: int, size: int) -> bytes:
    """Return ``size`` bytes of an open file from byte ``start`` on.

    Raises:
        OSError: the file ends too early.
    """
    parts = []
    while size > 0:
        part = os.pread(descriptor, size, start) if hasattr(os, "pread") else seek_and_read(descriptor, start, size)
        if not part:
            raise OSError(f"ends {size} bytes early")
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
