"""Archives behind an address (``https://``, ``s3://``, ...): opened and read by ranges of bytes through fsspec."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import IO, Any

BLOCK = 2**20  # bytes that are fetched ahead while an archive is listed


def is_address(source: object) -> bool:
    """Return whether a source is an address rather than a path."""
    return "://" in str(source)


def file_system(address: str) -> Any:
    """Return fsspec's file system for an address; each process has its own, because connections survive no fork.

    Raises:
        ModuleNotFoundError: fsspec, or the package that it needs for this kind of address, is not installed.
        ValueError: there is no such kind of address.
    """
    return made(address.partition("://")[0].lower(), os.getpid())


@lru_cache(maxsize=16)
def made(kind: str, process: int) -> Any:
    """Return a new file system for one kind of address."""
    try:
        import fsspec

        return fsspec.filesystem(kind, skip_instance_cache=True)
    except ModuleNotFoundError as error:
        message = "addresses need fsspec: pip install 'fastclr[remote]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    except ImportError as error:
        from fsspec.registry import known_implementations

        owner = str(known_implementations.get(kind, {}).get("class", "")).partition(".")[0]
        remedy = f"pip install {owner}" if owner and owner != "fsspec" else str(error)
        remedy = "pip install 'fastclr[remote]'" if kind in ("http", "https") else remedy
        raise ModuleNotFoundError(f"{kind}:// needs another package: {remedy}") from error


def matching(address: str) -> list[str]:
    """Return the addresses that a pattern with ``*`` stands for, sorted.

    Raises:
        ValueError: they cannot be listed, as on a server without pages of its folders.
    """
    system = file_system(address)
    try:
        found = system.glob(address)
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"{address} cannot be listed: {type(error).__name__}: {error}") from error
    return sorted(str(path) if is_address(path) else str(system.unstrip_protocol(path)) for path in found)


def open_remote(address: str) -> IO[bytes]:
    """Open a file for reading and seeking.

    Raises:
        OSError: it does not exist or cannot be read.
    """
    system = file_system(address)
    try:
        file: IO[bytes] = system.open(address, "rb", block_size=BLOCK)
        file.seek(1)
        file.seek(0)
    except OSError:
        raise
    except ValueError as error:
        raise OSError("its server does not serve ranges of bytes: fetch the file") from error
    except Exception as error:  # each kind of address has errors of its own
        raise OSError(f"{address} cannot be opened: {type(error).__name__}: {error}") from error
    return file


def read_range(address: str, start: int, size: int) -> bytes:
    """Return `size` bytes of a file from byte `start` on.

    Raises:
        OSError: they cannot be read, or the file ends before.
    """
    try:
        data: bytes = file_system(address).cat_file(address, start=start, end=start + size)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{address} cannot be read: {type(error).__name__}: {error}") from error
    if len(data) > size:
        raise OSError("its server does not serve ranges of bytes: fetch the file")
    if len(data) < size:
        raise OSError(f"ends {size - len(data)} bytes early")
    return data
