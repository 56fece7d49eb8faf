"""Features on the way to one file: in parts, each written whole, that a later call takes over after a kill."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastclr.data.make_sets import class_labels
from fastclr.files import (
    create_new,
    is_own,
    make_folder,
    read_json,
    refuse_other,
    write_atomically,
    write_text_atomically,
)
from fastclr.sources.entries import Entry
from fastclr.transfer.feature_file import Array, FeatureFile

PART_NAME = re.compile(r"part-\d{8}\.npz")
PART = 2048  # images between two parts: what a kill can lose
ADVICE = "remove it, or give another --out"

log = logging.getLogger("fastclr")


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
            raise ValueError(f"{self.folder} belongs to another user: {ADVICE}")
        if path.exists():
            refuse_other(read_json(path), self.settings, self.folder, ADVICE)
        elif {entry.name for entry in self.folder.iterdir()} - {f"{path.name}.tmp"}:  # all that a kill leaves
            raise ValueError(f"{self.folder} has no settings of fastclr: {ADVICE}")
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

    def assemble(self, entries: list[Entry], classes: tuple[str, ...]) -> FeatureFile:
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
            names=np.array([entry.name for entry in entries], dtype=np.str_)[good],
            labels=class_labels(entries, classes).numpy()[good],
            classes=classes,
            settings=self.settings,
            skipped=tuple((entries[row].name, reason) for row, reason in sorted(self.failed.items())),
        )

    def remove(self) -> None:
        """Remove the folder, if it is there and was made here."""
        if (self.folder / "settings.json").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)  # it follows no links
