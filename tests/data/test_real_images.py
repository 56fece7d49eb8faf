"""CIFAR-10 (JPEG) as people have it: one large archive, read in one pass."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from fastclr.data import load_splits

FOLDER = os.environ.get("FASTCLR_TEST_DATA")


@pytest.mark.slow
def test_cifar10_jpeg() -> None:
    """60,000 JPEGs come in the right split, class and order, and equal what Pillow decodes."""
    if FOLDER is None:
        pytest.skip("set FASTCLR_TEST_DATA to a folder with cifar10-jpeg.tar.gz to read the real data")
    path = Path(FOLDER) / "cifar10-jpeg.tar.gz"
    if not path.is_file():
        pytest.skip(f"FASTCLR_TEST_DATA has no {path.name}")
    splits = load_splits(path)
    assert splits.test is not None and splits.train.skipped == () == splits.test.skipped
    assert splits.train.labels.bincount().tolist() == [5000] * 10
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    assert splits.train.classes[0] == "airplane" and splits.train.names[5003] == "automobile/0003.jpg"
    assert isinstance(splits.train.images, Tensor) and splits.train.images.shape == (50_000, 32, 32, 3)
    row = {name: i for i, name in enumerate(splits.train.names)}
    checked = 0
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("train/")
            if name != member.name and name in row and (file := archive.extractfile(member)):
                expected = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                assert np.array_equal(splits.train.images[row[name]].numpy(), expected)
                checked += 1
            if checked == 500:
                break
    assert checked == 500
