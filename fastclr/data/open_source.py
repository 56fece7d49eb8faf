"""Open what lies at a path, or the data set that a name stands for."""

from __future__ import annotations

import os
from collections.abc import Sized
from pathlib import Path

from fastclr.data import array_file
from fastclr.data.cifar import find_variant, read_cifar
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.file_source import FileSource
from fastclr.data.given_images import open_given
from fastclr.data.image_source import ImageSource
from fastclr.data.pixel_source import PixelSource
from fastclr.data.shapes import make_shapes
from fastclr.data.stl import find_stl, read_stl
from fastclr.sources import tar
from fastclr.sources.caption_table import caption_by_table, index_caption_table, is_caption_table, read_table
from fastclr.sources.captions import CaptionOptions, caption_beside
from fastclr.sources.decode import image_names
from fastclr.sources.entries import Source, arrange
from fastclr.sources.folder import Files, index_folder
from fastclr.sources.links import hub_blobs
from fastclr.sources.remote import is_address
from fastclr.sources.shards import find_shards, index_shards, is_archive, is_pattern, is_shard_folder
from fastclr.sources.tables import index_tables, is_table, is_table_folder

LOST = 0.1  # share of images that may lie behind links

# kinds of files that people have, and what to do with them
OTHER = "which is not read: "
UNSUPPORTED = {
    (".zip", ".7z", ".rar"): f"an archive, {OTHER}unpack it, or make a .tar of it",
    (".h5", ".hdf5", ".hdf"): f"HDF5, {OTHER}give the array of images in Python, or store it as .npz",
    (".mat",): f"a file of MATLAB's, {OTHER}give the array of images in Python, or store it as .npz",
    (".mdb", ".lmdb"): f"LMDB, {OTHER}give a Dataset that reads it in Python, or write its images to a .tar",
    (".tfrecord", ".tfrecords", ".rec", ".beton", ".ffcv"): (
        f"a file of another library's records, {OTHER}give a Dataset that reads it in Python, or write shards of .tar"
    ),
    (".pkl", ".pickle", ".pt", ".pth"): f"a pickle, {OTHER}give what it holds in Python, or store it as .npz",
}


def check_place(source: str | Path | Sized) -> None:
    """Raise a ValueError unless something lies at `source` that may hold images."""
    if not isinstance(source, (str, os.PathLike)):
        return
    if is_address(source):
        if is_archive(str(source)):
            return
        raise ValueError(
            f"{source} is an address, of which archives are read ({', '.join(tar.SUFFIXES)}), one or several as in "
            "https://host/train-{000..099}.tar or s3://bucket/train-*.tar: pack the images, or fetch or mount them"
        )
    path = Path(source).expanduser()
    if source == "shapes" or path.is_dir() or (is_archive(path.name) and (path.is_file() or is_pattern(str(path)))):
        return
    known = is_table(path.name) or is_caption_table(path.name) or path.suffix.lower() in array_file.SUFFIXES
    if path.is_file() and known:
        return
    if kind := next((text for ends, text in UNSUPPORTED.items() if str(source).lower().endswith(ends)), None):
        raise ValueError(f"{source} is {kind}")
    if is_pattern(str(path)) and not path.exists():
        raise ValueError(f"{source} must name archives ({', '.join(tar.SUFFIXES)}): a pattern stands for shards only")
    state = "is neither a file nor a folder" if path.exists() else "does not exist"
    if path.is_file():
        state = "is a file, but no archive of images"
    raise ValueError(
        f"{path} {state}: give a folder of images, an archive ({', '.join(tar.SUFFIXES)}), a pattern of shards as in "
        f"train-{{000..099}}.tar or train-*.tar, tables (.parquet, .arrow; .csv with paths and captions), arrays "
        f"({', '.join(array_file.SUFFIXES)}), "
        "or the name of a data set: shapes, cifar10, cifar100 or stl10"
    )


def open_source(
    source: str | Path | Sized,
    options: DecodeOptions | None = None,
    follow_links: str | Path | None = None,
    captions: CaptionOptions | None = None,
) -> ImageSource:
    """Open a source; the pixels of CIFAR, STL-10, arrays and of what a program holds are read.

    Args:
        source: as in :func:`fastclr.data.load_splits`.
        options: how much memory pixels may take, and how large the images that a program holds are made.
        follow_links: in a folder, symbolic links are followed that lead into this one.
        captions: where the captions are, if they are asked for; images without one are left out and named.

    Raises:
        OSError: the table of captions cannot be read.
        ValueError: there is no such file or folder, it is of another kind, it holds no image, its pixels do not fit
            into memory, or more than half of the images have no caption.
    """
    table = None if captions is None or not captions.is_table else captions
    opened = open_images(source, options or DecodeOptions(), follow_links, None if table else captions)
    if captions is None:
        return opened
    if isinstance(opened, PixelSource):
        return opened.captioned(captions)
    contents = opened.contents
    if table:
        contents = caption_by_table(contents, read_table(Path(captions.place).expanduser(), captions))
    elif not contents.captioned:
        contents = caption_beside(contents, captions)
    return FileSource(opened.name, contents)


def open_images(
    source: str | Path | Sized,
    options: DecodeOptions,
    follow_links: str | Path | None,
    captions: CaptionOptions | None,
) -> PixelSource | FileSource:
    """Open a source as `open_source` does, with captions only if they are in its samples, rows, items or arrays."""
    if not isinstance(source, (str, os.PathLike)):
        return PixelSource(type(source).__name__, open_given(source, options, captions=captions))
    name, path = str(source), Path(source).expanduser()
    if source == "shapes":
        return PixelSource(name, make_shapes() if captions is None else make_shapes(captions=True))
    check_place(source)
    if is_address(name):
        contents = None if "{" in name or "*" in name else tar.index_tar(name)
        if contents is None or any(file.lower().endswith(".cls") for file in contents.names):
            return FileSource(name, index_shards(find_shards(name), name, captions))
        found = image_names(contents.names)
        check_lost(contents, len(found))
        return FileSource(name, Source(contents, arrange(found)))
    if not path.is_dir() and not path.is_file():
        return FileSource(name, index_shards(find_shards(str(path)), str(path), captions))
    if path.suffix.lower() in array_file.SUFFIXES and path.is_file():
        return PixelSource(name, array_file.read_arrays(path, options, captions))
    if path.is_file() and is_table(path.name):
        return FileSource(name, index_tables({path.name: path}, str(path), captions))
    if path.is_file() and is_caption_table(path.name):
        return FileSource(name, index_caption_table(path, captions))
    follow = None if follow_links is None else Path(follow_links).expanduser()
    if follow is not None and not follow.is_dir():
        raise ValueError(f"follow_links must be the folder into which links may lead, and {follow} is none")
    if (path / "snapshots").is_dir() and (path / "blobs").is_dir():
        found = sorted(str(snapshot) for snapshot in (path / "snapshots").iterdir())
        listed = ", ".join(found) or "but there is none"
        raise ValueError(f"{path} is a repository in Hugging Face's cache: give one of its snapshots, {listed}")
    follow = follow or hub_blobs(path)
    files = index_folder(path, follow) if path.is_dir() else tar.index_tar(path)
    if variant := find_variant(files.names):
        return PixelSource(name, read_cifar(files, *variant))
    if (prefix := find_stl(files.names)) is not None:
        return PixelSource(name, read_stl(files, prefix, options.memory_limit))
    if path.is_dir() and is_shard_folder(files):
        shards = {file: (path / file).resolve() for file in files.names if is_archive(file)}  # a link may be followed
        return FileSource(name, index_shards(shards, str(path), captions))
    if path.is_dir() and is_table_folder(files):
        tables = {file: (path / file).resolve() for file in files.names if is_table(file)}
        return FileSource(name, index_tables(tables, str(path), captions))
    if path.is_file() and any(file.lower().endswith(".cls") for file in files.names):
        return FileSource(name, index_shards({path.name: path}, str(path), captions))
    images = image_names(files.names)
    if follow_links is None or path.is_file():
        check_lost(files, len(images))
    return FileSource(name, Source(files, arrange(images) if images else {}))


def check_lost(files: Files, count: int) -> None:
    """Raise a ValueError if more than a tenth of the images lie behind symbolic links that are not followed."""
    if files.lost > LOST * (count + files.lost):
        listed = ", ".join(f"{name!a}" for name in files.lost_links[:5])
        remedy = "Name the folder into which links may lead with --follow-links FOLDER (follow_links)"
        if not Path(files.source).is_dir():
            remedy = "Pack the files themselves: tar --dereference"
        raise ValueError(
            f"{files.lost} of the {count + files.lost} images of {files.source} would be lost: they lie behind "
            f"{len(files.lost_links)} symbolic link(s) that are not followed, such as {listed}. {remedy}"
        )
