"""Read a tar archive as a stream; nothing is written to disk."""

from __future__ import annotations

import copy
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from fastclr.sources.byte_ranges import HEAD_BYTES, Admit, Encoded, Paths, Storage
from fastclr.sources.decode import ARRAYS, image_size, is_image_name
from fastclr.sources.folder import LARGEST_SAMPLE, SAMPLE_EVERY, Files, is_hidden
from fastclr.sources.remote import open_remote

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # the first bytes of gzip, bzip2 and xz files
MAX_MEMBER_BYTES = 2**30

# index of the archive that holds a member, the member's first byte in it, its number of bytes
Place = tuple[int, int, int]


def index_tar(path: Path | str) -> Files:
    """List the regular files of the tar archive at ``path``.

    Symbolic links, devices, names that are absolute or contain ``..``, sparse or very large members, and further
    members of the same name are refused and reported. A hard link is a further name of a member before it.

    Raises:
        ValueError: the archive is damaged or truncated, or is not a tar archive.
    """
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    places: dict[str, Place] = {}
    links: dict[str, str] = {}
    with open_tar(path) as archive:
        for member, name, refusal in members(archive):
            if refusal:
                skipped.append((member.name, refusal))
                if member.issym() and is_image_name(name) and not is_hidden(name):
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                continue
            names.append(name)
            if is_image_name(name) or name.lower().endswith(ARRAYS):
                file = (
                    archive.extractfile(member)
                    if len(places) % SAMPLE_EVERY == 0 and member.size <= LARGEST_SAMPLE
                    else None
                )
                places[name] = (0, member.offset_data, member.size)
                if file and (size := image_size(file)):
                    sizes.append(size)

    def stream(wanted: Collection[str]) -> Iterator[tuple[str, Encoded]]:
        remaining = set(wanted)
        with open_tar(path) as archive:
            for member, name, refusal in members(archive):
                if not refusal and name in remaining and (file := archive.extractfile(member)):
                    yield name, member_image(file, member.size)
                    remaining.remove(name)
                    if not remaining:
                        return

    def storage(wanted: Sequence[str]) -> Storage:
        return archive_storage([path], places, wanted)

    listed = set(names)
    lost = tuple(sorted(name for name, target in links.items() if target not in listed))
    return Files(
        str(path), tuple(sorted(names)), tuple(sorted(skipped)), tuple(sizes), stream, storage, len(lost), lost
    )


def archive_storage(archives: Sequence[Path | str], places: Mapping[str, Place], wanted: Sequence[str]) -> Storage:
    """Return random access to members of uncompressed archives, in the order of ``wanted``.

    Raises:
        ValueError: one of the archives is compressed, so that its members can only be read in sequence.
    """
    for path in archives:
        with open_file(path) as file:
            compressed = file.read(6).startswith(COMPRESSED)
        if compressed:
            raise ValueError(
                f"{path} is compressed: images can be streamed from an uncompressed archive or a folder only; unpack "
                "it, or keep all images in memory (loader resident)"
            )
    columns = np.array([places[name] for name in wanted], dtype=np.int64).reshape(-1, 3)
    return Storage(
        Paths(path if isinstance(path, str) else str(path.absolute()) for path in archives), *columns.T.copy()
    )


def member_image(file: IO[bytes], size: int) -> Encoded:
    """Return a member that can be read until the archive is read on."""

    def read(admit: Admit) -> bytes:
        head = file.read(HEAD_BYTES)
        admit(head, size)
        return head + file.read()

    return Encoded(read, size, in_sequence=True)


def open_file(path: Path | str) -> IO[bytes]:
    """Open an archive; a string is an address."""
    return open_remote(path) if isinstance(path, str) else path.open("rb")


@contextmanager
def open_tar(path: Path | str) -> Iterator[tarfile.TarFile]:
    """Open a tar archive of any compression; damage becomes a ValueError that names the archive.

    Raises:
        ValueError: the archive is damaged or truncated, or is not a tar archive.
    """
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise ValueError(f"{path} is damaged, cut short, or no tar archive: {error}") from error


def members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yield every file of the archive with its clean name and the reason for refusing it, empty if there is none.

    Of a hard link to a file before it that may be read, even one that is hidden, this file is yielded with its name.
    """
    seen: set[str] = set()
    known: dict[str, tarfile.TarInfo] = {}
    for stored in archive:
        name, member = clean(stored.name), stored
        if stored.islnk() and (target := known.get(clean(stored.linkname))):
            member = copy.copy(target)
            member.name = stored.name
        refusal = refuse(member)
        if not refusal:
            known.setdefault(name, member)
        if member.isdir() or (not refusal and is_hidden(name)):
            continue
        if not refusal and name in seen:
            refusal = "second file of the same name"
        seen.add(name)
        yield member, name, refusal


def clean(name: str) -> str:
    """Return the name of a member without what changes nothing in a path."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def refuse(member: tarfile.TarInfo) -> str:
    """Return why a member must not be read; empty if it may be."""
    if member.issym():
        return "symbolic link, not followed"
    if member.islnk():
        return "hard link to no file before it"
    if not member.isreg():
        return "not a regular file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe name: it leads out of the archive"
    if member.issparse():
        return "sparse file"
    if member.size > MAX_MEMBER_BYTES:
        return f"larger than {MAX_MEMBER_BYTES} bytes"
    return ""
