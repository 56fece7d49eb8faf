"""Tables that stream from the disk, and datasets that worker processes read: the same images in the same order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from test_given_images import (
    Pictures,
    arrow_file,
    arrow_stream,
    expected,
    folder,
    labels,
    parquet,
    pixels,
    png,
    trained,
)

from fastclr.data import ImageDataset, ImageIndex, load_splits

__all__ = ["expected", "folder"]  # fixtures


@pytest.mark.parametrize("make", [arrow_stream, arrow_file])
def test_arrow_files_are_streamed(
    make: Callable[[Path, Path], Path], folder: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Plain Arrow keeps the bytes of an image in one piece, from where worker processes read and decode them."""
    splits = load_splits(make(folder, tmp_path), loader="torch")
    assert isinstance(splits.train, ImageIndex) and splits.train.read(0) == png(pixels()[int(splits.train.ids[0])])
    weights = trained(splits)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_compressed_tables_are_not_streamed(folder: Path, tmp_path: Path) -> None:
    table = pa.table({"image": [png(array) for array in pixels()], "label": labels()})
    packed = tmp_path / "packed.arrow"
    with pa.ipc.new_file(packed, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    for place in (packed, parquet(folder, tmp_path) / "train-00000-of-00002.parquet"):
        with pytest.raises(ValueError, match=f"{place} has its images compressed .* plain Arrow file only"):
            load_splits(place, loader="torch")
        assert load_splits(place, loader="resident").test is not None


class Holes(Pictures):
    """Some items raise."""

    def __getitem__(self, index: int) -> Any:
        if index % 10 == 7:
            raise OSError(f"no item {index}")
        return super().__getitem__(index)


def test_worker_processes_read_the_same() -> None:
    alone, together = (load_splits(Holes("tensor"), workers=workers) for workers in (None, 2))
    assert alone.train.fingerprint == together.train.fingerprint and alone.train.skipped == together.train.skipped
    assert isinstance(together.train, ImageDataset) and torch.equal(together.train.images, alone.train.images)  # type: ignore[arg-type]
    assert ("117", "OSError: no item 117") in together.train.skipped
    broken = pixels()
    with pytest.raises(ValueError, match=r"must be uint8, or floats in \[0, 1\], got 7 to 7"):
        load_splits(Late(broken), workers=2)


class Late(Pictures):
    """An item that cannot be used lies where a worker reads it."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__("array", values)

    def __getitem__(self, index: int) -> Any:
        return (np.full((12, 12, 3), 7.0) * (index == 90), 0) if index >= 90 else super().__getitem__(index)
