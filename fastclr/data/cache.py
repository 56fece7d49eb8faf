"""Decoded images kept on disk, so that a second run on the same source starts at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fastclr.data.cache_file import SUFFIX, TEMPORARY, Origin, read_origin, read_splits, write_splits
from fastclr.data.decoded_set import Splits
from fastclr.files import is_own, locked
from fastclr.sources.folder import is_hidden

VERSION = 4  # of the stored data: changes to the decoder, the order or the layout need a new number
HASHED_WHOLE = 4 * 2**30  # archives of up to this many bytes are hashed whole
EDGE = 64 * 2**20  # of larger ones, this many bytes at either end are hashed

# packages that decide which images can be read: one that is installed later makes others readable
DECODERS = (
    *("pillow", "pillow-heif", "pydicom", "tifffile", "imagecodecs"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm"),  # pydicom's
)

log = logging.getLogger("fastclr")


@dataclass(frozen=True)
class Request:
    """Everything that determines which images a source yields.

    Args:
        sources: folders and archives, in a fixed order, or the word `shapes`.
        options: everything else that changes the result, except for the two below; values that JSON can represent.
        holdout: share that is held out if the source has no test split.
        seed: decides which images are held out.
    """

    sources: tuple[str | Path, ...]
    options: Mapping[str, str | int | None]
    holdout: float
    seed: int


def cache_folder(cache: str | Path | None) -> Path | None:
    """Return the folder that `cache` stands for, or None for no cache.

    Args:
        cache: `auto` is ``$XDG_CACHE_HOME/fastclr``, by default ``~/.cache/fastclr``; `off` or None is no cache;
            anything else is a folder (write ``./off`` for one of that name).
    """
    if cache is None or cache == "off":
        return None
    return default_folder() if cache == "auto" else Path(cache).expanduser()


def default_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/fastclr``, by default ``~/.cache/fastclr``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # by the XDG specification, a relative path is ignored
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "fastclr"


def cached(request: Request, folder: Path | None, load: Callable[[], Splits]) -> Splits:
    """Return the images of `request` from `folder`; otherwise call `load` and store its result there.

    A file is found by what the sources hold, not by where they are stored: see `content_of`. Its pixels are mapped into
    memory and read when needed. If a process is already decoding the same images, others wait for it. If the result
    cannot be stored (no space, a folder that is not writable, a file that could not be read this time), there is a
    warning and nothing else; files of an earlier state of the same sources are removed.

    Args:
        request: what determines the result of `load`.
        folder: where decoded images are stored, created with mode 0700; None calls `load` and stores nothing.
        load: decodes the images; its errors are passed on.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
    """
    origin = origin_of(request) if folder else None
    if folder is None or origin is None:
        return load()
    paths = [folder / f"{key}{SUFFIX}" for key in keys(request, origin)]
    if (found := first_readable(paths, origin)) is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{paths[0].stem}.lock{TEMPORARY}"
            stack.enter_context(locked(path, f"another process decodes the same images ({path})", wait=True))
            stack.callback(discard, path)
        except OSError as error:
            log.warning("decoded images are not kept: %s", error)
            return load()
        if (found := first_readable(paths, origin)) is not None:  # stored while this process waited
            return found
        splits = load()
        if splits.loader != "resident":  # nothing was decoded
            return splits
        path = paths[-1] if splits.held_out else paths[0]
        if (reason := reason_against(splits, request, origin)) is not None:
            log.warning("decoded images are not kept: %s", reason)
            return splits
        try:
            write_splits(path, splits, origin)
            remove_outdated(folder, origin)
        except OSError as error:
            log.warning("decoded images are not kept: %s", error)
        return splits


def origin_of(request: Request) -> Origin | None:
    """Return where the images come from and what is there; None if a source is neither a folder nor a file."""
    contents = [content_of(source) for source in request.sources]
    found = tuple(content for content in contents if content is not None)
    roots = tuple(str(Path(source).expanduser()) for source in request.sources)
    return Origin(roots, tuple(map(os.path.abspath, roots)), found) if len(found) == len(contents) else None


def keys(request: Request, origin: Origin) -> list[str]:
    """Return the keys under which a result may be stored: if nothing had to be held out, and if something was.

    If the source has its own test images, all seeds give the same result, which is stored once.
    """
    common = [VERSION, decoders(), origin.contents, dict(request.options)]
    variants = ([request.holdout > 0], [request.holdout, request.seed])
    return [hashed(json.dumps([common, variant], sort_keys=True)) for variant in variants]


def decoders() -> dict[str, str]:
    """Return the versions of the packages of `DECODERS` that are installed."""
    found: dict[str, str] = {}
    for name in DECODERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hashed(text: str) -> str:
    """Return a hexadecimal digest of `text`."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def content_of(source: str | Path) -> str | None:
    """Return a digest of what `source` holds; None if it is neither a folder nor a file.

    - A file: all its bytes; above 4 GiB, its size, modification time, and first and last 64 MiB.
    - A folder: relative name, size and modification time of every file that is not hidden, and the names of links,
      pipes and folders that cannot be read.
    """
    if source == "shapes":
        return "shapes"
    path = Path(source).expanduser()
    if path.is_dir():
        return folder_digest(path)
    return file_digest(path) if path.is_file() else None


def file_digest(path: Path) -> str:
    """Return the digest of a file; see `content_of`."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        if info.st_size <= HASHED_WHOLE:
            while block := file.read(2**22):
                digest.update(block)
            return f"file {digest.hexdigest()}"
        digest.update(file.read(EDGE))
        file.seek(-EDGE, os.SEEK_END)
        digest.update(file.read(EDGE))
    return f"file {info.st_size} {info.st_mtime_ns} {digest.hexdigest()}"


def folder_digest(root: Path) -> str:
    """Return the digest of a folder; see `content_of`."""
    entries: list[tuple[str, int, int, int]] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as found:
                for entry in found:
                    if is_hidden(entry.name) or entry.name.endswith((SUFFIX, TEMPORARY)):
                        continue  # files of a cache, which may be inside the folder, do not count
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        pending.append(name)
                    elif stat.S_ISREG(info.st_mode):
                        entries.append((name, 0, info.st_size, info.st_mtime_ns))
                    else:
                        entries.append((name, stat.S_IFMT(info.st_mode), 0, 0))
        except OSError as error:
            entries.append((folder, -(error.errno or 1), 0, 0))
    return f"folder {hashed(json.dumps(sorted(entries)))}"


def first_readable(paths: list[Path], origin: Origin) -> Splits | None:
    """Return the contents of the first of `paths` that can be read; damaged files are removed."""
    for path in paths:
        if not os.path.exists(path):  # unlike Path.exists, False if the folder may not be searched
            continue
        if not is_own(path):
            log.warning("%s is not used: it is a link or belongs to another user", path)
            continue
        try:
            return read_splits(path, origin)
        except ValueError as error:
            log.warning("%s is damaged and is made again: %s", path, error)
            discard(path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the mapping fails
            log.warning("%s is not used: %s", path, error)
    return None


def reason_against(splits: Splits, request: Request, origin: Origin) -> str | None:
    """Return why `splits` must not be stored; None if it may be."""
    skipped = [item for split in (splits.train, splits.test) if split is not None for item in split.skipped]
    for name, reason in skipped:
        # the file may be readable next time, and its digest would not show the difference
        if "[Errno" in reason or reason.startswith("MemoryError"):
            return f"{name!a} could not be read this time ({reason})"
    if origin_of(request) != origin:
        return f"{', '.join(origin.roots)} changed while it was read"
    return None


def remove_outdated(folder: Path, origin: Origin) -> None:
    """Remove what was stored of the same sources when their contents were different."""
    for path in folder.glob(f"*{SUFFIX}"):
        if not is_own(path):
            continue
        try:
            stored = read_origin(path)
        except (OSError, ValueError):
            continue  # it is checked when it is requested
        if stored.places == origin.places and stored.contents != origin.contents:
            path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a file, if that is possible."""
    with contextlib.suppress(OSError):
        path.unlink()


def usage(folder: Path) -> tuple[int, int]:
    """Return the number and the total size in bytes of the cache's files in `folder`."""
    sizes = []
    for path in kept(folder):
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def clear(folder: Path) -> tuple[int, int]:
    """Remove the cache's files in `folder`, and nothing else; return their number and total size in bytes.

    Raises:
        OSError: a file cannot be removed.
    """
    count = usage(folder)
    for path in kept(folder):
        path.unlink(missing_ok=True)
    return count


def kept(folder: Path) -> list[Path]:
    """Return the cache's files in `folder`, including those of interrupted runs."""
    return sorted(path for suffix in (SUFFIX, TEMPORARY) for path in folder.glob(f"*{suffix}"))
