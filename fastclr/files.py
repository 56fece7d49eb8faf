"""Atomic file writes that follow no planted link, checked reads of JSON, and locks."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin

log = logging.getLogger("fastclr")

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
        OSError: as for `written`.
    """
    with written(path, write):
        pass


@contextlib.contextmanager
def written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[None]:
    """Let `write` fill a new temporary file beside `path` and force it to disk; after the block, rename it to `path`.

    Raises:
        OSError: writing failed, or another process writes the same file; `path` is unchanged, and the temporary file
            is removed, as after an error in the block.
    """
    temporary = path.with_name(path.name + ".tmp")
    own: os.stat_result | None = None
    try:
        with explained(path), create_new(temporary) as file:
            own = os.fstat(file.fileno())
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield
        with explained(path):
            if not is_file(temporary, own):
                raise OSError("another process writes the same file")
            os.replace(temporary, path)
    finally:
        if own is not None and is_file(temporary, own):
            with contextlib.suppress(OSError):
                temporary.unlink()
    sync_folder(path.parent)


def link_atomically(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`; a link or a file that is there is replaced, and never followed.

    Raises:
        OSError: it cannot be made, for one because the file system has no links.
    """
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    os.replace(temporary, path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into an OSError that names it."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save reports some failed writes as RuntimeError
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not write {path}: {error} (is the disk full?){kept}") from error


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


JSON_BYTES = 2**26  # no file that is written here comes near
JsonObject = dict[str, Any]


def read_json(path: Path, fields: Mapping[str, Any] | None = None) -> JsonObject:
    """Read a JSON object.

    Args:
        path: the file.
        fields: what it must hold at least: an annotation for each name, see `fits`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, not an object, or a field is missing or of another type.
    """
    if path.stat().st_size > JSON_BYTES:
        raise ValueError(f"{path} must have at most {JSON_BYTES} bytes, got {path.stat().st_size}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {brief(value)}")
    check_types(value, fields or {}, str(path))
    return value


def check_types(values: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> None:
    """Raise a ValueError if a field is missing or is not what its annotation says; see `fits`."""
    for name, hint in fields.items():
        if name not in values:
            raise ValueError(f"{source} lacks {name}")
        if not fits(values[name], hint):
            kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
            raise ValueError(f"{name} in {source} must be {kind}, got {brief(values[name])}")


def fits(value: object, hint: Any) -> bool:
    """Tell whether what was read from a file is what an annotation says; a tuple may have become a list.

    A float is any finite number. Known are Any, classes, unions, `Literal`, and dict, list and tuple of these.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint in (int, float):
        number = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        return number and -1e300 < value < 1e300  # type: ignore[operator]
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items()
        )
    if origin is list or (origin is tuple and arguments[-1] is ...):
        return isinstance(value, (list, tuple)) and all(fits(item, arguments[0]) for item in value)
    if origin is tuple:
        same = isinstance(value, (list, tuple)) and len(value) == len(arguments)
        return same and all(fits(v, argument) for v, argument in zip(value, arguments, strict=True))  # type: ignore[call-overload]
    return value is None if hint in (None, type(None)) else isinstance(value, hint)


def refuse_other(there: JsonObject, now: JsonObject, path: Path, advice: str) -> None:
    """Raise a ValueError that names the settings in which two calls differ, and gives an advice."""
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if names:
        listed = ", ".join(f"{name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in names)
        raise ValueError(f"{path} was made with other settings ({listed}): {advice}")


def brief(value: object) -> str:
    """Return a value in a few words, whatever it is."""
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    return ascii(value)[:60] if isinstance(value, (str, bool, float, type(None))) else type(value).__name__


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# of file systems that have no locks
LOCKLESS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is not there, until the block or the process ends, however it ends.

    Where the file system has no locks, the block runs without one.

    Args:
        path: the file; a link is not followed.
        busy: what to say while another process holds it.
        wait: say it as a warning, and wait; otherwise it is an error.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened, or belongs to someone else.
    """
    from filelock import FileLock, Timeout

    # a lock file that only exists would outlive a killed process, and any thread may close a writer
    lock = FileLock(path, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise BlockingIOError(busy) from error
        log.warning("%s: waiting for it", busy)
        lock.acquire()
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
    try:
        yield
    finally:
        lock.release()
