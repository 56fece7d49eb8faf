"""Read the original CIFAR-10 and CIFAR-100 python archives."""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.sources.folder import Files


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

    classes = tuple(name.decode() for name in field(variant.meta, variant.classes))

    def split(name: str, batches: tuple[str, ...]) -> ImageDataset:
        pixels = np.concatenate([checked_pixels(field(batch, b"data"), f"{prefix}{batch}") for batch in batches])
        images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels = [label for batch in batches for label in field(batch, variant.labels)]
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
    """Return ``data`` after checking that it is uint8 ``[N, 3072]``.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"the data of {source} must be uint8 [N, 3072], got {found}")
    return data


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle numbers, text, containers and NumPy arrays, and refuse everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the named object if it is needed to rebuild an array.

        Raises:
            pickle.UnpicklingError: the pickle asks for anything else.
        """
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only arrays and basic types are admitted")


def unpickle(data: bytes, source: str) -> dict[bytes, Any]:
    """Return the dictionary pickled in ``data``, with byte strings as Python 2 wrote them.

    Raises:
        ValueError: the pickle is damaged, is not a dictionary, or holds more than arrays and basic types.
    """
    try:
        content = ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:
        raise ValueError(f"{source} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} must hold a dictionary, got {type(content).__name__}")
    return content
