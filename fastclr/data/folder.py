"""Find the files of a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fastclr.data.decode import image_size, is_image_name
from fastclr.data.files import SAMPLE_EVERY, Files, hidden
from fastclr.data.storage import Storage


def index_folder(root: Path) -> Files:
    """List the regular files below ``root``; nothing outside it is touched.

    Symbolic links are not followed, so that a loop cannot hang the walk and a link cannot lead out of the folder.
    They are reported, as are pipes, sockets, devices and folders that may not be read.
    """
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            skipped.append((folder or str(root), f"folder cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if hidden(entry.name):
                continue
            if entry.is_symlink():
                skipped.append((name, "symbolic link, not followed"))
            elif entry.is_dir(follow_symlinks=False):
                pending.append(name)
            elif entry.is_file(follow_symlinks=False):
                names.append(name)
            else:
                skipped.append((name, "not a regular file"))
    names.sort()
    images = [name for name in names if is_image_name(name)]
    sizes = [size for name in images[::SAMPLE_EVERY] if (size := image_size(root / name))]

    def read(wanted: Collection[str]) -> Iterator[tuple[str, bytes | Path]]:
        for name in sorted(wanted):
            yield name, root / name

    def storage(wanted: Sequence[str]) -> Storage:
        # absolute, for a worker process may be started in another folder
        return Storage.of_files(f"{absolute}/{name}" for name in wanted)

    absolute = root.absolute()
    return Files(str(root), tuple(names), tuple(sorted(skipped)), tuple(sizes), read, storage)
