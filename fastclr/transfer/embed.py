"""Features of a folder, a tar or a named set of images: streamed, in parts that survive a kill, then one file."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.data.decode_many import DecodeOptions, pack
from fastclr.data.image_list import ImageList, Split
from fastclr.data.load import list_images
from fastclr.device import resolve_device
from fastclr.evaluate import frozen, state_hash
from fastclr.files import create_new, is_own, make_folder, read_json, write_atomically, write_text_atomically
from fastclr.sources.decode import Pixels
from fastclr.sources.remarks import quiet_pillow
from fastclr.training.run import Run
from fastclr.transfer.feature_file import Array, FeatureFile, check_suffix, read_settings, write_features

Kind = Literal["h", "z"]
PART_NAME = re.compile(r"part-\d{8}\.npz")
PART = 2048  # images between two parts: what a kill can lose
BATCH_BYTES = 2**28  # of decoded pixels: a batch of large photos is cut short

log = logging.getLogger("fastclr")


@dataclass(frozen=True)
class Embedded:
    """What `embed` wrote: number of images, features of each, (name, reason) of the left out, images done before."""

    images: int
    dim: int
    skipped: tuple[tuple[str, str], ...]
    resumed: int


def load_module(run: Run, kind: Kind) -> nn.Module:
    """Return the encoder (h), or the encoder with its head (z), with the weights of the last checkpoint.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: the kind is unknown.
    """
    if kind not in ("h", "z"):
        raise ValueError(f"features must be h (of the encoder) or z (of the projection head), got {kind!r}")
    if kind == "h":
        return run.load_encoder()
    return run.load_model()


def compute(module: nn.Module, pixels: list[Pixels], augment: AugmentConfig, device: torch.device) -> Tensor:
    """Return float32 features ``[n, F]`` on the CPU of a frozen module, of images as an evaluation sees them."""
    transform = SimCLRAugment(augment, views=1)
    images = pack(pixels)
    images = images.to(device if SimCLRAugment.supports(device) else "cpu")
    view = transform.apply(images, evaluation_params(image_sizes(images), augment.size))[0]
    features: Tensor = module(view.to(device))
    return features.float().cpu()


def embed(
    run: Run,
    source: str | Path,
    out: Path,
    *,
    features: Kind = "h",
    split: Split = "all",
    half: bool = False,
    batch_size: int = 256,
    device: str = "auto",
    memory_limit: int | None = None,
) -> Embedded | None:
    """Write the features of all images of a source, in float32 arithmetic; a killed call goes on where it was.

    Memory holds a few batches of images and one part of `PART` features; finished parts lie in the folder
    ``OUT.parts``, which goes when `out` is there.

    Args:
        run: whose encoder, preprocessing and `resize_shorter` are used.
        source: as for `fastclr.data.load_splits`.
        out: a file that ends in ``.npz`` or ``.parquet``; see `fastclr.transfer.feature_file`.
        features: ``h`` of the encoder or ``z`` of the projection head.
        split: which images.
        half: store float16.
        batch_size: images per forward pass.
        device: ``auto`` or a torch device.
        memory_limit: bytes that images may take while they are decoded; None is half of the free memory.

    Returns:
        what was written; None if `out` was there with the same settings.

    Raises:
        ValueError: an argument does not fit; `out` or its parts were made with other settings; or more than half of
            the images cannot be read.
        FloatingPointError: a feature is NaN or infinite.
        FileNotFoundError: the run has no checkpoint.
    """
    check_suffix(out)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out is in a folder that does not exist: {out.absolute().parent}")
    where = resolve_device(device)
    module = load_module(run, features).to(where)
    listing = list_images(source, split)
    settings = describe(run, module, listing, features, half)
    parts = Parts(out.with_name(f"{out.name}.parts"), settings, len(listing.names))
    if out.exists():
        refuse_other(read_settings(out), settings, out)
        parts.remove()
        return None
    resumed = parts.open()
    with frozen(module):
        for rows, vectors, failed in batches(run, module, listing, parts.done, where, batch_size, memory_limit):
            stored = vectors.to(torch.float16 if half else torch.float32)
            if not bool(stored.isfinite().all()):
                raise FloatingPointError(f"the features must be finite in {stored.dtype}, but some are NaN or infinite")
            parts.add(rows, stored, failed)
    parts.flush()
    if 2 * len(parts.failed) > len(listing.names):
        parts.remove()  # so that the files are read anew when they have been mended
        listed = "; ".join(f"{listing.names[row]!a}: {reason}" for row, reason in sorted(parts.failed.items())[:5])
        raise ValueError(f"{len(parts.failed)} of {len(listing.names)} images in {source} cannot be read: {listed}")
    table = parts.assemble(listing)
    write_features(out, table)
    parts.remove()
    return Embedded(len(table), table.features.shape[1], table.skipped, resumed)


def describe(run: Run, module: nn.Module, listing: ImageList, features: str, half: bool) -> dict[str, Any]:
    """Return all that decides what the features are, as JSON has it."""
    augment = run.config.augment
    settings = {
        "encoder": run.config.encoder,
        "weights": state_hash(module),
        "features": features,
        "dtype": "float16" if half else "float32",
        "size": augment.size,
        "mean": augment.mean,
        "std": augment.std,
        "style": augment.style,
        "resize_shorter": run.config.resize_shorter,
        "images": listing.digest(),
    }
    stored: dict[str, Any] = json.loads(json.dumps(settings))
    return stored


def refuse_other(there: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise a ValueError that names the settings in which two calls differ."""
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if names:
        listed = ", ".join(f"{name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in names)
        raise ValueError(f"{path} was made with other settings ({listed}): remove it, or give another --out")


def batches(
    run: Run,
    module: nn.Module,
    listing: ImageList,
    done: Set[int],
    device: torch.device,
    batch_size: int,
    memory_limit: int | None = None,
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """Yield rows, their features and the rows that cannot be read, for all rows that are not done."""
    remaining = set(range(len(listing.names))) - done
    rows: list[int] = []
    pixels: list[Pixels] = []
    failed: dict[int, str] = {}
    held = 0
    options = DecodeOptions(run.config.resize_shorter, memory_limit)
    bar = tqdm(total=len(listing.names), initial=len(done), desc="embedding", unit=" images", leave=False, disable=None)
    with bar, quiet_pillow():
        for row, result in listing.read(remaining, options):
            bar.update()
            if isinstance(result, str):
                failed[row] = result
                continue
            rows.append(row)
            pixels.append(result)
            held += result.nbytes
            if len(rows) == batch_size or held >= BATCH_BYTES:
                yield rows, compute(module, pixels, run.config.augment, device), failed
                rows, pixels, failed, held = [], [], {}, 0
        if rows:
            yield rows, compute(module, pixels, run.config.augment, device), failed
        elif failed:
            yield [], torch.empty(0), failed


def mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> Array:
    """Return an array in a new file; a full disk is an OSError now, where it would end the process later."""
    with create_new(path) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
        return np.memmap(file, dtype, "r+", shape=shape)


class Parts:
    """Finished features in a folder: ``settings.json`` and ``part-N.npz``, each written whole or not at all."""

    def __init__(self, folder: Path, settings: dict[str, Any], images: int) -> None:
        self.folder, self.settings, self.images = folder, settings, images
        self.done: set[int] = set()
        self.failed: dict[int, str] = {}
        self._files = 0
        self._rows: list[int] = []
        self._features: list[Tensor] = []
        self._failed: dict[int, str] = {}

    def open(self) -> int:
        """Make the folder, or take over what is in it; return the number of images that are done.

        Raises:
            ValueError: the parts that are there were made with other settings, or by someone else.
            OSError: the folder cannot be made, or is a link.
        """
        path = self.folder / "settings.json"
        make_folder(self.folder)
        if not is_own(self.folder):
            raise ValueError(f"{self.folder} belongs to another user: remove it, or give another --out")
        if path.exists():
            refuse_other(read_json(path), self.settings, self.folder)
        elif {entry.name for entry in self.folder.iterdir()} - {f"{path.name}.tmp"}:  # all that a kill leaves
            raise ValueError(f"{self.folder} has no settings of fastclr: remove it, or give another --out")
        else:
            text = json.dumps(self.settings, indent=2) + "\n"
            write_text_atomically(path, text)
        for file in self.files():
            self._files = int(file.stem.removeprefix("part-")) + 1
            try:
                rows, failed = self.read(file)
            except Exception as error:  # zipfile and NumPy raise many types for damaged files
                log.warning("%s is damaged, and its images are embedded again: %s", file, error)
                file.unlink()
                continue
            self.done.update(rows)
            self.failed.update(failed)
        self.done.update(self.failed)
        return len(self.done)

    def files(self) -> list[Path]:
        """Return the finished parts in the order in which they were written."""
        return sorted(path for path in self.folder.iterdir() if PART_NAME.fullmatch(path.name))

    def read(self, file: Path) -> tuple[list[int], dict[int, str]]:
        """Return the rows of a part, and those that could not be read with the reasons; any error if it is damaged."""
        with np.load(file, allow_pickle=False) as part:
            rows, features = part["rows"], part["features"]
            failed = {int(row): str(reason) for row, reason in json.loads(str(part["failed"])).items()}
        if rows.dtype != np.int64 or rows.ndim != 1 or features.ndim != 2 or len(features) != len(rows):
            raise ValueError(f"rows and features must be int64 [n] and [n, F], got {rows.shape} and {features.shape}")
        if features.dtype != self.settings["dtype"] or not np.isfinite(features).all():
            raise ValueError(f"features must be finite {self.settings['dtype']}, got {features.dtype} with others")
        found = [*rows.tolist(), *failed]
        if len(set(found)) < len(found) or not self.done.isdisjoint(found) or not set(found) <= set(range(self.images)):
            raise ValueError(f"rows must be new ones below {self.images}")
        return rows.tolist(), failed

    def add(self, rows: list[int], features: Tensor, failed: dict[int, str]) -> None:
        """Take features of some rows, and write a part when there are enough."""
        self._rows += rows
        self._failed |= failed
        if len(rows):
            self._features.append(features)
        if len(self._rows) + len(self._failed) >= PART:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part."""
        if not self._rows and not self._failed:
            return
        features = torch.cat(self._features).numpy() if self._features else np.empty((0, 0), np.float32)
        contents: dict[str, Any] = {
            "rows": np.array(self._rows, dtype=np.int64),
            "features": features,
            "failed": np.array(json.dumps(self._failed)),
        }
        path = self.folder / f"part-{self._files:08d}.npz"
        write_atomically(path, lambda file: np.savez(file, **contents))
        self._files += 1
        self.done.update(self._rows, self._failed)
        self.failed |= self._failed
        self._rows, self._features, self._failed = [], [], {}

    def assemble(self, listing: ImageList) -> FeatureFile:
        """Return all features in the order of their rows, mapped from a file in the folder."""
        good = np.array(sorted(self.done - set(self.failed)), dtype=np.int64)
        whole: Array | None = None
        for file in self.files():
            with np.load(file, allow_pickle=False) as part:
                rows, features = part["rows"], part["features"]
                if len(rows) == 0:
                    continue
                if whole is None:
                    whole = mapped(self.folder / "whole", features.dtype, (len(good), features.shape[1]))
                whole[np.searchsorted(good, rows)] = features
        if whole is None:
            raise ValueError(f"there are no features in {self.folder}")
        return FeatureFile(
            features=whole,
            ids=good,
            names=np.array(listing.names, dtype=np.str_)[good],
            labels=listing.labels[good],
            classes=listing.classes,
            settings=self.settings,
            skipped=tuple((listing.names[row], reason) for row, reason in sorted(self.failed.items())),
        )

    def remove(self) -> None:
        """Remove the folder, if it is there and was made here."""
        if (self.folder / "settings.json").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)  # it follows no links
