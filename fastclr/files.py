"""Atomic file writes that follow no planted link, and a lock on a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# in a folder that others may write to, a link in the place of a file must not lead a write out of it
REAL = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def create_new(path: Path) -> BinaryIO:
    """Open a new file to write and read; whatever was at `path`, also a link, is removed and never followed.

    Raises:
        OSError: it cannot be made, or what is at `path` cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | REAL, 0o666), "w+b")


def append_text(path: Path, text: str) -> None:
    """Append `text` as UTF-8 to a file, which is made if it is not there; a link is an OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | REAL, 0o666), "ab") as file:
        file.write(text.encode())


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it is there.

    Raises:
        OSError: it cannot be made, or a link lies in its place: what is written into it would land elsewhere.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a link, which is not followed: remove it")
    path.mkdir(parents=True, exist_ok=True)


def is_own(path: Path) -> bool:
    """Tell whether `path` itself, not what it may link to, belongs to this user; false if it is not there."""
    try:
        return path.lstat().st_uid == os.geteuid() and not path.is_symlink()
    except OSError:
        return False


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new temporary file beside `path`, force it to disk, and rename it to `path`.

    Raises:
        OSError: writing failed, or another process writes the same file; `path` is unchanged, and the temporary file
            is removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    written: os.stat_result | None = None
    try:
        with create_new(temporary) as file:
            written = os.fstat(file.fileno())
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not is_file(temporary, written):
            raise OSError("another process writes the same file")
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports some failed writes as RuntimeError
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not write {path}: {error} (is the disk full?){kept}") from error
    finally:
        if written is not None and is_file(temporary, written):
            with contextlib.suppress(OSError):
                temporary.unlink()
    sync_folder(path.parent)


def is_file(path: Path, status: os.stat_result) -> bool:
    """Tell whether `path` is the file of `status`."""
    try:
        return os.path.samestat(path.lstat(), status)
    except OSError:
        return False


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, which then holds either its previous content or all of `text`.

    Raises:
        OSError: writing failed; `path` is unchanged.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> int:
    """Take the lock of a folder until the returned descriptor is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened; a link is not followed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | REAL, 0o666)
    try:
        # lockf belongs to the process: unlike with flock, data workers that outlive a killed run do not keep it held
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            raise BlockingIOError(f"another process is training in {path.parent.parent}: stop it first") from error
        # otherwise go on without a lock: some network file systems have none
    return descriptor
