"""The original CIFAR archives: pixels in the right place, and no code run from a pickle."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from published_cases import python2_batch
from torch import Tensor

from fastclr.data import load_dataset, load_splits

RNG = np.random.default_rng(0)


def cifar10() -> tuple[dict[str, bytes], npt.NDArray[np.uint8], list[int]]:
    """The files of a small CIFAR-10, with its pixels and labels: five batches of 3 and a test batch of 3."""
    pixels = RNG.integers(0, 256, (18, 3072), dtype=np.uint8)
    labels = RNG.integers(0, 10, 18).tolist()
    files = {}
    for i, name in enumerate([f"data_batch_{j}" for j in range(1, 6)] + ["test_batch"]):
        part = slice(3 * i, 3 * i + 3)
        files[name] = python2_batch(pixels[part], labels[part], b"labels")
    files["batches.meta"] = pickle.dumps({b"label_names": [f"class{i}".encode() for i in range(10)]}, 3)
    return files, pixels, labels


def store(path: Path, files: dict[str, bytes], folder: str) -> Path:
    """Write the files as an archive or, if ``path`` has no suffix, as a folder."""
    if not path.suffix:
        (path / folder).mkdir(parents=True)
        for name, content in files.items():
            (path / folder / name).write_bytes(content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "extracted", "extracted/cifar-10-batches-py"])
def test_cifar10(name: str, tmp_path: Path) -> None:
    """The archive, the folder it unpacks to and the folder around that give images in the order of the archive."""
    files, pixels, labels = cifar10()
    store(tmp_path / name.split("/")[0], files, "cifar-10-batches-py")
    splits = load_splits(tmp_path / name)
    assert splits.test is not None and len(splits.train) == 15 and len(splits.test) == 3
    assert splits.train.labels.tolist() + splits.test.labels.tolist() == labels
    assert splits.train.classes == tuple(f"class{i}" for i in range(10))
    images = [splits.train.images, splits.test.images]
    assert all(isinstance(part, Tensor) for part in images)
    joined = torch.cat([part for part in images if isinstance(part, Tensor)])
    for i in range(18):
        for y, x, channel in RNG.integers(0, (32, 32, 3), (20, 3)).tolist():
            assert joined[i, y, x, channel] == pixels[i, channel * 1024 + y * 32 + x]
    assert splits.train.ids.tolist() == list(range(15))
    assert splits.train.names == tuple(sorted(splits.train.names))
    assert load_dataset(tmp_path / name, "test").fingerprint == splits.test.fingerprint


def test_cifar100_uses_fine_labels(tmp_path: Path) -> None:
    """CIFAR-100 has other file names and two kinds of labels."""
    pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    files = {
        split: pickle.dumps({b"data": pixels[part], b"fine_labels": [99, 7], b"coarse_labels": [1, 2]}, 3)
        for split, part in (("train", slice(0, 2)), ("test", slice(2, 4)))
    }
    files["meta"] = pickle.dumps({b"fine_label_names": [str(i).encode() for i in range(100)]}, 3)
    splits = load_splits(store(tmp_path / "cifar-100-python.tar.gz", files, "cifar-100-python"))
    assert splits.test is not None and splits.train.labels.tolist() == splits.test.labels.tolist() == [99, 7]
    assert len(splits.train.classes) == 100


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """Remember the folder."""
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Name the function to call."""
        return os.mkdir, (str(self.path),)


def test_pickles_run_no_code(tmp_path: Path) -> None:
    """A pickle that asks for anything but arrays and basic types is refused before it acts."""
    files, _, _ = cifar10()
    files["data_batch_2"] = pickle.dumps({b"data": Attack(tmp_path / "attacked")}, 3)
    with pytest.raises(ValueError, match=r"data_batch_2 cannot be read: refused to load (posix|nt)\.mkdir"):
        load_splits(store(tmp_path / "evil.tar.gz", files, "cifar-10-batches-py"))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage", "test_batch cannot be read"),
        (pickle.dumps([1, 2], 3), "test_batch must hold a dictionary, got list"),
        (pickle.dumps({b"labels": [1]}, 3), "test_batch lacks b'data'"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, 3), "test_batch lacks b'labels'"),
        (pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 1]}, 3), r"got uint8 \(2, 3071\)"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 1]}, 3), r"got float64 \(2, 3072\)"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, 3), r"labels must be in -1 .. 9"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 3), r"labels must be \[2\]"),
    ],
)
def test_damaged_cifar(content: bytes, message: str, tmp_path: Path) -> None:
    """Damage is a ValueError that says what was expected and what was found."""
    files, _, _ = cifar10()
    files["test_batch"] = content
    with pytest.raises(ValueError, match=message):
        load_splits(store(tmp_path / "bad.tar.gz", files, "cifar-10-batches-py"))
