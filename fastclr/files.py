"""Files that are written whole or not at all, and the lock of a folder."""

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
        OSError: it could not be written; what was at `path` is untouched, and the temporary file is gone.
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
    """Write `text` as UTF-8 to `path`, which then holds either what it held before or all of it.

    Raises:
        OSError: it could not be written; what was at `path` is untouched.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to disk: a rename must survive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> int:
    """Take the lock of a folder until the returned descriptor is closed, or the process ends in whatever way.

    Raises:
        BlockingIOError: another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # a lock of the process: unlike that of flock, it is not held on by data workers that outlive a killed run
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            raise BlockingIOError(f"another process is training in {path.parent.parent}: stop it first") from error
        # some network file systems have no locks
    return descriptor
