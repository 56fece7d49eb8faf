"""Atomic file writes, and a lock on a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, and rename it to `path`.

    Raises:
        OSError: writing failed; `path` is unchanged, and the temporary file is removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports some failed writes as RuntimeError
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not write {path}: {error} (is the disk full?){kept}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


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
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # lockf belongs to the process: unlike with flock, data workers that outlive a killed run do not keep it held
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            raise BlockingIOError(f"another process is training in {path.parent.parent}: stop it first") from error
        # otherwise go on without a lock: some network file systems have none
    return descriptor
