"""Small published data sets: the files of CIFAR and STL-10 with a few random images."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

Content = dict[str, bytes]
RNG = np.random.default_rng(0)


def python2_string(content: bytes) -> bytes:
    """The opcode with which Python 2 pickles a str: BINSTRING."""
    return b"T" + struct.pack("<i", len(content)) + content


def python2_array(array: npt.NDArray[np.uint8]) -> bytes:
    """The opcodes with which Python 2 and its NumPy pickled a uint8 matrix in the real archives."""
    rows, columns = array.shape
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + python2_string(array.tobytes()) + b"tb"


def python2_batch(pixels: npt.NDArray[np.uint8], labels: list[int], key: bytes) -> bytes:
    """A batch file as Python 2 wrote it."""
    values = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + python2_string(b"data") + python2_array(pixels) + python2_string(key) + values + b"u."


def stl_files(train: int = 7, test: int = 5, unlabelled: int = 600) -> Content:
    """STL-10's files with a few random images; more unlabelled ones than are read at a time."""
    pixels = {"train_X.bin": train, "test_X.bin": test, "unlabeled_X.bin": unlabelled}
    content = {name: RNG.bytes(count * 3 * 96 * 96) for name, count in pixels.items()}
    for name, count in (("train_y.bin", train), ("test_y.bin", test)):
        content[name] = bytes(1 + (i % 10) for i in range(count))
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    content["class_names.txt"] = "\n".join(names).encode()
    return content


def cifar_files(classes: int) -> Content:
    """The files of CIFAR-10 or CIFAR-100 with two images each, as Python 2 wrote them."""
    key, name_key = (b"labels", b"label_names") if classes == 10 else (b"fine_labels", b"fine_label_names")
    names = b"".join(python2_string(f"class{i}".encode()) for i in range(classes))
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if classes == 10 else ["train", "test"]
    content = {
        name: python2_batch(RNG.integers(0, 256, (2, 3072), dtype=np.uint8), [1, classes - 1], key) for name in batches
    }
    meta = b"\x80\x02}" + python2_string(name_key) + b"](" + names + b"es."
    return content | {"batches.meta" if classes == 10 else "meta": meta}


def write_folder(root: Path, content: Content) -> Path:
    """Write files into a folder."""
    root.mkdir(parents=True)
    for name, data in content.items():
        (root / name).write_bytes(data)
    return root


def write_archive(path: Path, folder: str, content: Content) -> Path:
    """Write files into a packed folder."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


CONTENT = {"cifar10": cifar_files(10), "cifar100": cifar_files(100), "stl10": stl_files()}
