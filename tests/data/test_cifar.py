"""The original CIFAR archives: pixels in the right place, and no code run from a pickle."""

from __future__ import annotations

import io
import os
import pickle
import struct
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
BATCH = python2_batch(np.zeros((2, 3072), np.uint8), [1, 1], b"labels")


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
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, None]}, 3), "got 1 others, as NoneType"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2**70]}, 3), "got 1 others, as int"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": 5}, 3), "must be a list, got int"),
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


def crashing_pickle() -> bytes:
    """An array whose dtype becomes one of objects once its bytes are set: NumPy takes the bytes for pointers."""

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"tB\x01\x00\x00\x00btR"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8" + integer(0) + integer(1) + b"tRq\x01"

    def state(flags: int) -> bytes:
        return b"(" + integer(3) + b"X\x01\x00\x00\x00|NNN" + integer(-1) * 2 + integer(flags) + b"tb"

    filled = (
        b"("
        + integer(1)
        + b"("
        + integer(4)
        + b"t"
        + dtype
        + state(0)
        + integer(0)
        + b"B \x00\x00\x00"
        + b"A" * 32
        + b"tb"
    )
    key = b"X\x04\x00\x00\x00data"
    return b"\x80\x03}(" + key + array + filled + b"X\x05\x00\x00\x00againh\x01" + state(63) + b"u."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (crashing_pickle(), "a state is set twice"),
        (crashing_pickle().replace(b"h\x01(J", b"K\x00(J"), "unexpected int"),
        # NumPy would take eight times as many bytes as there are
        (
            python2_batch(np.zeros((2, 3072), np.uint8), [1, 1], b"labels").replace(b"u1K", b"u8K"),
            r"got uint64 \(2, 3072\)",
        ),
        # a nested key exhausts the stack of C while it is hashed, and a memo of 2**32 places the memory
        (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "unexpected tuple"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "test_batch lacks b'data'"),
        (b"\x80\x02}" + b"U\x04data" + b"(" * 10 + b"s.", "damaged pickle"),
        (b"\x80\x02c__main__\nx\n.", "refused to load __main__.x"),
        (b"\x80\x02ccopyreg\n_reconstructor\n.", "refused to load copyreg._reconstructor"),
        (b"\x80\x02\x82\x01.", "refused to load opcode EXT1"),
    ],
)
def test_hostile_pickles(content: bytes, message: str, tmp_path: Path) -> None:
    """What would corrupt memory or run code, were it rebuilt by its own modules, is refused in one line."""
    files, _, _ = cifar10()
    files["test_batch"] = content
    with pytest.raises(ValueError, match=message):
        load_splits(store(tmp_path / "bad.tar.gz", files, "cifar-10-batches-py"))
