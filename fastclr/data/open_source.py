"""Open what lies at a path: the files of a source, or finished data sets of pixels."""

from __future__ import annotations

from pathlib import Path

from fastclr.data.cifar import find_variant, read_cifar
from fastclr.data.decoded_set import Splits
from fastclr.data.shapes import make_shapes
from fastclr.data.stl import find_stl, read_stl
from fastclr.sources import tar
from fastclr.sources.decode import SUFFIXES, is_image_name
from fastclr.sources.entries import Entry, Source, arrange
from fastclr.sources.folder import index_folder
from fastclr.sources.shards import find_shards, index_shards, is_archive, is_shard_folder


def open_source(source: str | Path) -> Source | Splits:
    """Return the finished splits of ``shapes``, CIFAR and STL-10, or the files of a folder, archive or set of shards.

    Raises:
        ValueError: there is no such file or folder, it is of another kind, or it holds no image.
    """
    if source == "shapes":
        return make_shapes()
    path = Path(source).expanduser()
    if path.is_dir():
        files = index_folder(path)
    elif path.is_file() and is_archive(path.name):
        files = tar.index_tar(path)
    elif "{" in str(path) and is_archive(path.name):
        return checked(index_shards(find_shards(str(path)), str(path)))
    else:
        state = "is neither" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {state}: give a folder of images, an archive ({', '.join(tar.SUFFIXES)}), a pattern of shards "
            "as in train-{000..099}.tar, or the name of a data set: shapes, cifar10, cifar100 or stl10"
        )
    if variant := find_variant(files.names):
        return read_cifar(files, *variant)
    if (prefix := find_stl(files.names)) is not None:
        return read_stl(files, prefix)
    if path.is_dir() and is_shard_folder(files):
        return checked(index_shards({name: path / name for name in files.names if is_archive(name)}, str(path)))
    if path.is_file() and any(name.lower().endswith(".cls") for name in files.names):
        return checked(index_shards({path.name: path}, str(path)))
    images = [name for name in files.names if is_image_name(name)]
    return checked(Source(files, arrange(images) if images else {}))


def checked(source: Source) -> Source:
    """Return ``source`` if it has training images.

    Raises:
        ValueError: it has none.
    """
    if not source.groups.get("train"):
        files = source.files
        raise ValueError(
            f"no images in {files.source}: it has {len(files.names)} other files and {len(files.skipped)} entries that "
            f"are not read (links, pipes); images end in {', '.join(SUFFIXES)}"
        )
    return source


def labelled(entries: list[Entry]) -> list[Entry]:
    """Return the entries whose class is known."""
    return [entry for entry in entries if entry.kind is not None]
