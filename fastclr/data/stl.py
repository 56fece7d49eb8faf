"""Read the binary files of STL-10."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from fastclr.data.decode_many import DecodeOptions, check_memory
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.sources.folder import Files
from fastclr.sources.tar import open_tar

# the order of the labels 1 to 10 in the published files
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
PIXELS = ("train_X.bin", "unlabeled_X.bin", "test_X.bin")
LABELS = ("train_y.bin", "test_y.bin")
SIDE = 96
IMAGE_BYTES = 3 * SIDE * SIDE
CHUNK = 512  # images read at a time


def find_stl(names: Collection[str]) -> str | None:
    """Return the folder of STL-10's files among `names`, ending in ``/`` unless it is the top; else None.

    ``unlabeled_X.bin`` is not required: it exceeds the size up to which archive members are listed.
    """
    present = set(names)
    for name in sorted(present):
        prefix = name.removesuffix("train_X.bin")
        if name.rpartition("/")[2] == "train_X.bin" and present.issuperset(
            f"{prefix}{file}" for file in ("test_X.bin", *LABELS)
        ):
            return prefix
    return None


def read_stl(files: Files, prefix: str, memory_limit: int | None = None) -> Splits:
    """Read STL-10: 5,000 labelled and 100,000 unlabelled images (label -1) to train on, 8,000 to test on.

    The files store each image as three planes in column-major order; it becomes uint8 ``[96, 96, 3]``. They are read a
    few images at a time, straight into the result, so that no image is in memory twice.

    Raises:
        ValueError: a file is missing or does not hold whole images, or they take more than ``memory_limit`` bytes
            (None is half of the free memory).
    """
    with open_members(files.source, prefix) as members:
        sizes = {name: size for name, size, _ in members}
    if missing := [name for name in (*PIXELS, *LABELS) if name not in sizes]:
        raise ValueError(f"{files.source} is STL-10, but lacks {', '.join(missing)}")
    counts = {}
    for name in PIXELS:
        counts[name], rest = divmod(sizes[name], IMAGE_BYTES)
        if rest:
            raise ValueError(
                f"{files.source}: {name} must be a multiple of {IMAGE_BYTES} bytes (96 x 96 x 3), got {sizes[name]}"
            )
    images = sum(counts.values())
    check_memory(files.source, images * IMAGE_BYTES, images, DecodeOptions(memory_limit=memory_limit).budget())
    train, unlabelled, test = (counts[name] for name in PIXELS)
    pixels = {
        "train": np.empty((train + unlabelled, SIDE, SIDE, 3), np.uint8),
        "test": np.empty((test, SIDE, SIDE, 3), np.uint8),
    }
    place = {
        "train_X.bin": pixels["train"][:train],
        "unlabeled_X.bin": pixels["train"][train:],
        "test_X.bin": pixels["test"],
    }
    labels: dict[str, npt.NDArray[np.int64]] = {}
    with open_members(files.source, prefix) as members:
        for name, _, file in members:
            if name in place:
                fill(place[name], file, f"{files.source}: {name}")
            elif name in LABELS:
                labels[name] = np.frombuffer(file.read(), np.uint8).astype(np.int64) - 1
    unknown = np.full(unlabelled, -1)

    def split(name: str, known: npt.NDArray[np.int64], names: list[str]) -> ImageDataset:
        return ImageDataset(
            images=torch.from_numpy(pixels[name]),
            ids=torch.arange(len(pixels[name])),
            labels=torch.from_numpy(known),
            classes=CLASSES,
            names=tuple(names),
            source=f"{files.source} ({name})",
        )

    names = [f"train/{i:04d}" for i in range(train)] + [f"unlabeled/{i:05d}" for i in range(unlabelled)]
    return Splits(
        split("train", np.concatenate([labels["train_y.bin"], unknown]), names),
        split("test", labels["test_y.bin"], [f"test/{i:04d}" for i in range(test)]),
    )


def fill(images: npt.NDArray[np.uint8], file: IO[bytes], source: str) -> None:
    """Fill `images`, ``[N, 96, 96, 3]``, from a file.

    Raises:
        ValueError: the file ends early.
    """
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        content = file.read(len(part) * IMAGE_BYTES)
        if len(content) != len(part) * IMAGE_BYTES:
            raise ValueError(f"{source} ends early, after {start * IMAGE_BYTES + len(content)} bytes")
        # stored as [channel, column, row]
        part[:] = np.frombuffer(content, np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)


@contextmanager
def open_members(source: str, prefix: str) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Open a folder or archive; yield an iterator over ``(name, number of bytes, content)`` of STL-10's files in it."""
    path = Path(source)
    wanted = {f"{prefix}{name}": name for name in (*PIXELS, *LABELS)}

    def in_folder() -> Iterator[tuple[str, int, IO[bytes]]]:
        for place, name in wanted.items():
            if (path / place).is_file():
                with open(path / place, "rb") as file:
                    yield name, (path / place).stat().st_size, file

    if path.is_dir():
        yield in_folder()
        return
    with open_tar(path) as archive:

        def in_archive() -> Iterator[tuple[str, int, IO[bytes]]]:
            for member in archive:
                name = wanted.get(str(PurePosixPath(member.name)))
                if name and member.isreg() and (file := archive.extractfile(member)):
                    yield name, member.size, file

        yield in_archive()
