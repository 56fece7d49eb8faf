"""Read the original CIFAR-10 and CIFAR-100 python archives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.sources.folder import Files
from fastclr.sources.plain_pickle import byte_array, read_pickle


@dataclass(frozen=True)
class Variant:
    """File names and dictionary keys of one CIFAR archive."""

    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    classes: bytes


VARIANTS = (
    Variant(tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta", b"labels", b"label_names"),
    Variant(("train",), "test", "meta", b"fine_labels", b"fine_label_names"),
)


def find_variant(names: Collection[str]) -> tuple[Variant, str] | None:
    """Return the CIFAR variant whose files are among ``names``, and their folder; None if there is none."""
    present = set(names)
    for variant in VARIANTS:
        for folder in {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == variant.meta}:
            prefix = "" if folder == "." else f"{folder}/"
            if present.issuperset(f"{prefix}{file}" for file in (*variant.train, variant.test)):
                return variant, prefix
    return None


def read_cifar(files: Files, variant: Variant, prefix: str) -> Splits:
    """Read both splits of a CIFAR archive; images keep the order of the archive.

    Raises:
        ValueError: a file is damaged, holds more than arrays and basic types, or does not have the contents of CIFAR.
    """
    wanted = [f"{prefix}{file}" for file in (*variant.train, variant.test, variant.meta)]
    content: dict[str, dict[bytes, Any]] = {}
    for name, data in files.read(wanted):
        content[name] = unpickle(data.read_bytes() if isinstance(data, Path) else data, f"{files.source}: {name}")

    def field(file: str, key: bytes) -> Any:
        if key not in content[f"{prefix}{file}"]:
            raise ValueError(f"{files.source}: {prefix}{file} lacks {key!r}")
        return content[f"{prefix}{file}"][key]

    names = checked_list(field(variant.meta, variant.classes), bytes, f"the classes of {prefix}{variant.meta}")
    classes = tuple(name.decode("utf-8", "backslashreplace") for name in names)

    def split(name: str, batches: tuple[str, ...]) -> ImageDataset:
        pixels = np.concatenate([checked_pixels(field(batch, b"data"), f"{prefix}{batch}") for batch in batches])
        images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels = [
            label
            for batch in batches
            for label in checked_list(field(batch, variant.labels), int, f"the labels of {prefix}{batch}")
        ]
        return ImageDataset(
            images=torch.from_numpy(images),
            ids=torch.arange(len(images)),
            labels=torch.tensor(labels, dtype=torch.int64),
            classes=classes,
            names=tuple(f"{name}/{index:05d}" for index in range(len(images))),
            source=f"{files.source} ({name})",
        )

    return Splits(split("train", variant.train), split("test", (variant.test,)))


def checked_pixels(data: object, source: str) -> npt.NDArray[np.uint8]:
    """Return `data`, an array as `read_pickle` has it, as uint8 ``[N, 3072]``.

    Raises:
        ValueError: it is something else.
    """
    found = byte_array(data)
    if isinstance(found, str) or found.ndim != 2 or found.shape[1] != 3072:
        text = found if isinstance(found, str) else f"uint8 {found.shape}"
        raise ValueError(f"the data of {source} must be uint8 [N, 3072], got {text}")
    return found


def checked_list(value: object, kind: type | tuple[type, ...], what: str) -> list[Any]:
    """Return `value` if it is a list of the given kind; otherwise a ValueError says what it is."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, got {type(value).__name__}")
    # a large int would not fit into a tensor
    if odd := [item for item in value if not isinstance(item, kind) or (isinstance(item, int) and abs(item) > 2**31)]:
        raise ValueError(
            f"{what} must hold {len(value)} plain values, got {len(odd)} others, as {type(odd[0]).__name__}"
        )
    return value


def unpickle(data: bytes, source: str) -> dict[bytes, Any]:
    """Return the dictionary pickled in ``data``, with byte strings as Python 2 wrote them.

    Raises:
        ValueError: the pickle is damaged, is not a dictionary, or holds more than arrays and basic types.
    """
    try:
        content = read_pickle(data)
    except ValueError as error:
        raise ValueError(f"{source} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} must hold a dictionary, got {type(content).__name__}")
    return content
