"""Writes checkpoints on a background thread, keeps the last few, and never deletes the last good one."""

from __future__ import annotations

import atexit
import contextlib
import copy
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor

from fastclr.files import link_atomically, locked, make_folder, sync_folder
from fastclr.training.checkpoint import Checkpoint, checkpoint_path, find_fault, list_checkpoints, save_checkpoint

T = TypeVar("T")
LAST = "last"  # a link to the newest
OVERHEAD = 2**20  # bytes a file needs beyond its tensors: the archive's directory and the pickled structure


class CheckpointWriter:
    """Writes ``step-00001234.pt`` files into one folder while training goes on, and ``last``, a link to the newest.

    `save` copies everything to the CPU and returns; a thread then runs `before`, writes a temporary file, fsyncs it,
    renames it, fsyncs the folder, lets ``last`` point to it, and only then deletes old checkpoints. A kill between any
    two of these steps leaves the previous checkpoints untouched and at most a temporary file, which the next writer
    removes. At most one copy is held in memory, because each `save` waits for the one before it. While a writer is
    open, no other process can open one on the same folder.

    Args:
        folder: created if it does not exist.
        keep: how many checkpoints to keep, at least 1.
        before: called with the copied checkpoint on the writing thread before the checkpoint is written, to write
            whatever must be on disk by the time the checkpoint is.

    Raises:
        ValueError: `keep` is below 1.
        OSError: the folder cannot be created.
        BlockingIOError: another process is writing to it.
    """

    def __init__(self, folder: Path, keep: int = 2, before: Callable[[Checkpoint], object] | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self.keep = keep
        self._before = before
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._closed = False
        make_folder(folder)
        sync_folder(folder.parent)
        self._lock = contextlib.ExitStack()
        busy = f"another process is training in {folder.parent}: stop it first"
        self._lock.enter_context(locked(folder / ".lock", busy))
        for leftover in folder.glob("step-*.pt.tmp"):
            leftover.unlink()
        # a program that exits without calling `close` still waits for the thread and shows its error
        atexit.register(self.close)

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy `checkpoint` and start writing it.

        Raises:
            FloatingPointError: weights or the temperature are NaN or infinite; nothing is written.
            OSError: the previous checkpoint could not be written, or there is not enough space for this one.
                Checkpoints already on disk are intact.
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError(f"the writer of {self.folder} is closed")
        self.wait()
        copied = Checkpoint(**copy_to_cpu(vars(checkpoint)))
        self._check_finite(copied)
        needed = count_bytes(vars(copied)) + OVERHEAD
        if self._before is not None:
            needed += count_bytes(copied.method)  # its exports are derived from the weights
        self._make_room(needed)
        # not a daemon, so that the interpreter waits for it at exit
        self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last saved checkpoint is on disk.

        Raises:
            OSError: it could not be written; earlier checkpoints are intact.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait as `wait` does, then refuse further checkpoints."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self.wait()
        finally:
            self._lock.close()

    def __enter__(self) -> CheckpointWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; if an exception is already propagating, a failed write becomes a warning instead of replacing it."""
        try:
            self.close()
        except Exception as failed:
            if error is None:
                raise
            warnings.warn(str(failed), RuntimeWarning, stacklevel=2)

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            if self._before is not None:
                self._before(checkpoint)
            path = checkpoint_path(self.folder, checkpoint.step)
            save_checkpoint(path, checkpoint)
            with contextlib.suppress(OSError):  # a name for people: not every file system has links
                link_atomically(self.folder / LAST, path.name)
            self._delete_old(checkpoint.step)
        except OSError as error:
            self._error = OSError(f"{error}; {self._what_is_left()}")
            self._error.__cause__ = error
        except Exception as error:  # raised by the next `save` or `wait`
            self._error = error

    def _delete_old(self, step: int) -> None:
        """Delete all but the last `keep` checkpoints up to `step`, which is on disk.

        Later steps are deleted too: they were damaged, so the run was resumed from before them.
        """
        found = list_checkpoints(self.folder)
        older = [path for other, path in found if other < step]
        for path in [path for other, path in found if other > step] + older[self.keep - 1 :]:
            path.unlink(missing_ok=True)

    def _check_finite(self, checkpoint: Checkpoint) -> None:
        for name, value in checkpoint.method.items():
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"{name} is not finite at step {checkpoint.step}: this state is not saved; {self._what_is_left()}"
                )

    def _make_room(self, needed: int) -> None:
        """Ensure that `needed` bytes are free, without ever deleting the newest checkpoint that verifies."""
        if shutil.disk_usage(self.folder).free >= needed:
            return
        paths = [path for _, path in list_checkpoints(self.folder)]
        good = next((path for path in paths if is_whole(path)), None)
        spare = [path for path in paths if good not in (None, path)]
        # delete only if that frees enough; otherwise the older checkpoints would be lost for nothing
        if shutil.disk_usage(self.folder).free + sum(path.stat().st_size for path in spare) >= needed:
            for path in spare:
                path.unlink()
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"not enough space for a checkpoint in {self.folder}: it needs {needed / 1e6:.1f} MB, "
                f"{free / 1e6:.1f} MB are free; {self._what_is_left()}"
            )

    def _what_is_left(self) -> str:
        """Return a clause about the newest checkpoint on disk, for error messages."""
        found = list_checkpoints(self.folder)
        return f"the checkpoint of step {found[0][0]} is kept" if found else "there is no earlier checkpoint"


def copy_to_cpu(value: T) -> T:
    """Copy nested dicts, lists and tuples of tensors to the CPU, so that later changes do not reach the copy."""
    copied: Any = value
    if isinstance(value, Tensor):
        copied = value.detach().to("cpu", copy=True)
    elif isinstance(value, dict):
        copied = copy.copy(value)  # keeps the version metadata that a state_dict carries as an attribute
        for key, item in value.items():
            copied[key] = copy_to_cpu(item)
    elif isinstance(value, list | tuple):
        copied = type(value)(copy_to_cpu(item) for item in value)
    result: T = copied
    return result


def count_bytes(value: Any) -> int:
    """Return the total bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(count_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(count_bytes(item) for item in value)
    return 0


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint can be read and still has the bytes it was written with."""
    try:
        with open(path, "rb") as file:
            return find_fault(file) is None
    except OSError:
        return False
