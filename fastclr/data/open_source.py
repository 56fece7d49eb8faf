"""Open what lies at a path, or the data set that a name stands for."""

from __future__ import annotations

from pathlib import Path

from fastclr.data.cifar import find_variant, read_cifar
from fastclr.data.file_source import FileSource
from fastclr.data.image_source import ImageSource
from fastclr.data.pixel_source import PixelSource
from fastclr.data.shapes import make_shapes
from fastclr.data.stl import find_stl, read_stl
from fastclr.sources import tar
from fastclr.sources.decode import is_image_name
from fastclr.sources.entries import Source, arrange
from fastclr.sources.folder import index_folder
from fastclr.sources.shards import find_shards, index_shards, is_archive, is_shard_folder


def check_place(source: str | Path) -> None:
    """Raise a ValueError unless something lies at `source` that may hold images."""
    path = Path(source).expanduser()
    if source == "shapes" or path.is_dir() or (is_archive(path.name) and (path.is_file() or "{" in str(path))):
        return
    state = "is neither" if path.exists() else "does not exist"
    raise ValueError(
        f"{path} {state}: give a folder of images, an archive ({', '.join(tar.SUFFIXES)}), a pattern of shards "
        "as in train-{000..099}.tar, or the name of a data set: shapes, cifar10, cifar100 or stl10"
    )


def open_source(source: str | Path, memory_limit: int | None = None) -> ImageSource:
    """Open ``shapes``, a folder, an archive or a set of shards; the pixels of CIFAR and STL-10 are read.

    Args:
        source: as in :func:`fastclr.data.load_splits`.
        memory_limit: bytes that pixels may take; None is half of the free memory.

    Raises:
        ValueError: there is no such file or folder, it is of another kind, it holds no image, or its pixels do not fit
            into memory.
    """
    name, path = str(source), Path(source).expanduser()
    if source == "shapes":
        return PixelSource(name, make_shapes())
    check_place(source)
    if not path.is_dir() and not path.is_file():
        return FileSource(name, index_shards(find_shards(str(path)), str(path)))
    files = index_folder(path) if path.is_dir() else tar.index_tar(path)
    if variant := find_variant(files.names):
        return PixelSource(name, read_cifar(files, *variant))
    if (prefix := find_stl(files.names)) is not None:
        return PixelSource(name, read_stl(files, prefix, memory_limit))
    if path.is_dir() and is_shard_folder(files):
        shards = {file: path / file for file in files.names if is_archive(file)}
        return FileSource(name, index_shards(shards, str(path)))
    if path.is_file() and any(file.lower().endswith(".cls") for file in files.names):
        return FileSource(name, index_shards({path.name: path}, str(path)))
    images = [file for file in files.names if is_image_name(file)]
    return FileSource(name, Source(files, arrange(images) if images else {}))
