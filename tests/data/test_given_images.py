"""Images from a program and files of arrays: the training of a folder, and clear words about what is not read."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from stream_cases import encode
from tiny_run import TINY
from torch.utils.data import Dataset, IterableDataset

from fastclr.data import ImageDataset, Splits, load_dataset, load_splits
from fastclr.training.build import build
from fastclr.training.step import train_step

COUNT = 70  # images in each of two classes


def pixels(count: int = 2 * COUNT, side: int = 12) -> np.ndarray:
    """Random pictures; those of the first class come first."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def labels() -> list[int]:
    return [0] * COUNT + [1] * COUNT


class Pictures(Dataset[Any]):
    """A dataset as people write it; `kind` says what it gives."""

    def __init__(self, kind: str = "PIL", values: np.ndarray | None = None) -> None:
        self.kind, self.values = kind, pixels() if values is None else values
        self.classes = ["cat", "dog"]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        array, label = self.values[index], labels()[index]
        if index >= len(self):
            raise IndexError(index)
        if self.kind == "PIL":
            return Image.fromarray(array), label
        if self.kind == "tensor":  # as torchvision's ToTensor makes them
            return torch.from_numpy(array).permute(2, 0, 1).float() / 255, torch.tensor(label)
        if self.kind == "uint8":
            return torch.from_numpy(array).permute(2, 0, 1), label
        if self.kind == "array":
            return array, np.int64(label)
        return {"image": Image.fromarray(array), "label": label, "note": "x"}  # as Hugging Face gives them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as PNGs."""
    root = tmp_path_factory.mktemp("given") / "root"
    for index, (array, label) in enumerate(zip(pixels(), labels(), strict=True)):
        (root / ("cat", "dog")[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / ("cat", "dog")[label] / f"{index:04d}.png")
    return root


def packed(folder: Path, to: Path) -> Path:
    with tarfile.open(to / "x.tar", "w") as archive:
        archive.add(folder, ".")
    return to / "x.tar"


def npz(_: Path, to: Path) -> Path:
    np.savez(to / "x.npz", train_images=pixels(), train_labels=np.array(labels(), dtype=np.uint8)[:, None])
    return to / "x.npz"


def columns(_: Path, to: Path) -> Path:
    np.savez_compressed(to / "y.npz", x_train=np.asfortranarray(pixels()), y_train=labels())
    return to / "y.npz"


def png(array: np.ndarray) -> bytes:
    return encode(Image.fromarray(array), "PNG")


def parquet(_: Path, to: Path) -> Path:
    """A folder of parquet as the Hub has it: two files, structures of bytes and path, the names of the classes."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    stored = {"huggingface": json.dumps({"info": {"features": features}})}
    for part in range(2):
        rows = range(part * COUNT, (part + 1) * COUNT)
        images = [{"bytes": png(pixels()[row]), "path": f"{row}.png"} for row in rows]
        table = pa.table({"label": [labels()[row] for row in rows], "image": images}).replace_schema_metadata(stored)
        pa.parquet.write_table(table, to / f"train-0000{part}-of-00002.parquet")
    return to


def arrow_stream(_: Path, to: Path) -> Path:
    """What `Dataset.save_to_disk` writes: record batches one after the other."""
    table = pa.table({"image": [{"bytes": png(array), "path": None} for array in pixels()], "label": labels()})
    with pa.ipc.new_stream(to / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    (to / "state.json").write_text("{}")
    return to


def arrow_file(_: Path, to: Path) -> Path:
    """One file with random access, bytes as they are, and names of classes."""
    table = pa.table(
        {"png": [png(array) for array in pixels()], "class": [("cat", "dog")[label] for label in labels()]}
    )
    with pa.ipc.new_file(to / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return to / "x.arrow"


SOURCES: dict[str, Callable[[Path, Path], Any]] = {
    "tar": packed,
    "parquet": parquet,
    "arrow stream": arrow_stream,
    "arrow file": arrow_file,
    "npz": npz,
    "npz in columns": columns,
    "arrays": lambda *_: (pixels(), np.array(labels())),
    "tensors": lambda *_: (torch.from_numpy(pixels()).permute(0, 3, 1, 2), torch.tensor(labels())),
    "floats": lambda *_: (pixels().astype(np.float32) / 255, labels()),
    "dataset of images": lambda *_: Pictures("PIL"),
    "dataset of tensors": lambda *_: Pictures("tensor"),
    "dataset of uint8": lambda *_: Pictures("uint8"),
    "dataset of arrays": lambda *_: Pictures("array"),
    "dataset of dictionaries": lambda *_: Pictures("dict"),
}


def trained(splits: Splits) -> dict[str, torch.Tensor]:
    """The weights after three steps."""
    config = dataclasses.replace(TINY, data="x", width=0.0625, augment=dataclasses.replace(TINY.augment, size=8))
    training = build(config, data=splits)
    for batch in training.loader.epoch(0):
        train_step(training, batch)
    assert training.step == 3
    return dict(training.method.state_dict())


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    return trained(load_splits(folder))


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_images_train_to_the_same_weights(
    kind: str, folder: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Ids, labels, what is held out, and every bit of the weights are those of the folder."""
    splits, reference = load_splits(SOURCES[kind](folder, tmp_path)), load_splits(folder)
    for ours, theirs in ((splits.train, reference.train), (splits.test, reference.test)):
        assert isinstance(ours, ImageDataset) and isinstance(theirs, ImageDataset)
        assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.labels, theirs.labels)
        assert isinstance(ours.images, torch.Tensor) and isinstance(theirs.images, torch.Tensor)
        assert torch.equal(ours.images, theirs.images)
    named = "dataset" in kind or kind in ("tar", "parquet", "arrow file")
    assert splits.held_out and splits.train.classes == (("cat", "dog") if named else ("0", "1"))
    weights = trained(splits)
    assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in expected)


def test_splits_and_sizes() -> None:
    """Entries by split, a test set of its own, grey images, and images of several sizes."""
    data = {"train": (pixels()[:, :, :, 0], labels()), "validation": (pixels(8)[..., :1], [0, 1] * 4)}
    splits = load_splits(data)
    assert isinstance(splits.train, ImageDataset) and len(splits.train) == 2 * COUNT and not splits.held_out
    assert splits.test is not None and splits.test.labels.tolist() == [0, 1] * 4
    assert torch.equal(splits.train.images[5, ..., 2], torch.from_numpy(pixels()[5, :, :, 0]))  # type: ignore[index]
    ragged = load_dataset([Image.new("RGB", (5 + i, 4), (i, 0, 0)) for i in range(3)])
    assert ragged.images.sizes.tolist() == [[4, 5], [4, 6], [4, 7]] and not ragged.classes  # type: ignore[union-attr]
    small = load_dataset(Pictures(), resize_shorter=6).images
    assert isinstance(small, torch.Tensor) and small.shape[1:3] == (6, 6)
    assert load_splits(Pictures(), Pictures(values=pixels(10))).test is not None


class Damaged(Pictures):
    """Some items raise, as those of damaged files do."""

    def __getitem__(self, index: int) -> Any:
        if index % 10 == 9:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


class Random(Pictures):
    """A dataset with a random transform."""

    def __getitem__(self, index: int) -> Any:
        return np.random.default_rng().integers(0, 256, (4, 4, 3), dtype=np.uint8)


class Stream(IterableDataset[Any]):
    """A dataset without positions."""

    def __iter__(self) -> Iterator[Any]:
        return iter(Pictures())


def test_items_that_cannot_be_read_are_left_out() -> None:
    """They keep their ids and are named with the reason; more than half are an error."""
    train = load_splits(Damaged(), holdout=0).train
    assert len(train) == 126 and train.skipped[0] == ("009", "OSError: image file is truncated")
    assert train.ids.tolist()[8:10] == [8, 10]

    class Worse(Damaged):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(9) if index % 3 else super().__getitem__(index)

    with pytest.raises(ValueError, match=r"98 of 140 images in the Worse \(train\) cannot be read: '.*': OSError"):
        load_splits(Worse())


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Random(), ValueError, "gives another image for 0 each time: leave its random transforms out"),
        (pixels().astype(np.float32), ValueError, r"floats in \[0, 1\], got 0 to 255: leave out what normalises them"),
        (pixels().astype(np.int32), ValueError, r"uint16, or floats in \[0, 1\], got int32: say the range"),
        (np.zeros((4, 8, 8, 2), np.uint8), ValueError, r"images of 1 or 3 channels, got shape \[1, 8, 8, 2\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, r"must be images \[N, H, W\] or \[N, H, W, C\]"),
        ((pixels(), [0, 1]), ValueError, r"must be \[140\] or \[140, 1\], got \[2\]"),
        ((pixels(), [-2] * 140), ValueError, r"must be in -1 \.\. 999999, got -2"),
        ([], ValueError, r"the list \(train\) is empty"),
        (["a"], TypeError, "must give PIL images, arrays or tensors, got str"),
        ([{"x": 1}], TypeError, r"must have one of image, img, .* in its items, got \['x'\]"),
        ({"test": pixels()}, ValueError, "must have an entry train, got 'test'"),
        (5, TypeError, "must be an array of images or a map-style dataset"),
        (Stream(), TypeError, "what can only be iterated has no positions"),
    ],
)
def test_what_is_no_set_of_images(source: Sized, error: type[Exception], message: str) -> None:
    """It is said what was expected and what was given."""
    with pytest.raises(error, match=message):
        load_splits(source)


def test_memory_and_loaders() -> None:
    """What a dataset gives is held, within the budget; there are no files that another loader could decode."""
    with pytest.raises(ValueError, match=r"about 6\.05e-05 GB decoded, but 6e-05 GB may be used"):
        load_splits(Pictures(), memory_limit=60_000)
    with pytest.raises(ValueError, match="loader dali decodes files, and images of a program"):
        load_splits(Pictures(), loader="dali")
    kept = pixels()
    assert load_dataset(kept).images.data_ptr() == kept.ctypes.data  # type: ignore[union-attr]  # not copied


def test_labels_of_many_kinds(caplog: pytest.LogCaptureFixture) -> None:
    """Names become classes, what is neither number nor name is unknown, and several labels for each image too."""
    data = [(image, label) for image, label in zip(pixels(4), ["b", "a", "b", None], strict=True)]
    train = load_splits(data, holdout=0).train
    assert train.classes == ("a", "b") and train.labels.tolist() == [1, 0, 1, -1]
    boxes = load_splits([(image, {"boxes": []}) for image in pixels(4)]).train
    assert boxes.classes == () and "neither numbers nor names count as unknown: dict" in caplog.text
    assert load_splits((pixels(4), np.zeros((4, 14)))).train.classes == () and "each image has 14" in caplog.text


def test_layouts_of_files(tmp_path: Path) -> None:
    """MedMNIST's and Keras's names, plain ones, and a single array."""
    both = {"train_images": pixels(), "train_labels": labels(), "val_images": pixels(3), "val_labels": [1, 0, 1]}
    np.savez(tmp_path / "a.npz", **both, test_images=pixels(2)[..., 0][..., None].repeat(3, -1), test_labels=[[1], [0]])
    splits = load_splits(tmp_path / "a.npz")
    assert splits.test is not None and splits.test.labels.tolist() == [1, 0]
    np.savez(tmp_path / "b.npz", images=pixels(), labels=labels())
    assert load_splits(tmp_path / "b.npz").train.classes == ("0", "1")
    np.save(tmp_path / "c.npy", pixels()[..., 0])
    train = load_splits(tmp_path / "c.npy").train
    assert len(train) == 140 and not train.classes and train.source == f"{tmp_path}/c.npy (train)"
    np.savez(tmp_path / "d.npz", pictures=pixels())
    with pytest.raises(ValueError, match=r"must have its images under one of the names train_images, .*; it has pict"):
        load_splits(tmp_path / "d.npz")


@pytest.mark.parametrize("kind", ["objects", "size", "cut", "text", "zip"])
def test_damaged_and_hostile_files(kind: str, tmp_path: Path) -> None:
    """Nothing is unpickled, nothing is allocated that the file does not hold, and the file is named."""
    path = tmp_path / ("x.npz" if kind == "zip" else "x.npy")
    np.save(tmp_path / "whole.npy", pixels())
    data = (tmp_path / "whole.npy").read_bytes()
    if kind == "objects":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "size":
        path.write_bytes(data.replace(b"(140, 12, 12, 3), }", b"(99999999,12,3), } "))
    elif kind == "cut":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"x\.np[yz]"):
        load_splits(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.zip", "is an archive, which is not read: unpack it"),
        ("x.h5", "is HDF5, which is not read"),
        ("data.mdb", "is LMDB, which is not read: give a Dataset that reads it in Python"),
        ("x.tfrecord", "is a file of another library's records"),
        ("s3://bucket/photos/", "is an address, of which archives are read"),
        ("https://host/x-*.zip", "is an address, of which archives are read"),
        ("0000.jpg", "is a file, but no archive of images: give a folder"),
        ("missing", "does not exist: give a folder"),
    ],
)
def test_what_is_not_supported_is_named(name: str, message: str, tmp_path: Path) -> None:
    """It is not said to be missing."""
    source = name if "://" in name else tmp_path / name
    if isinstance(source, Path) and name != "missing":
        source.write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        load_splits(source)


@pytest.mark.parametrize(
    ("column", "classes", "expected"),
    [
        (pa.array([2.0, 0.0, float("nan"), 1.0]), ("0", "1", "2"), [2, 0, -1, 1]),  # as pandas writes 2, 0, nothing, 1
        (pa.array([2, 0, None, -1]), ("0", "1", "2"), [2, 0, -1, -1]),
        (pa.array([True, False, None, True]), ("0", "1"), [1, 0, -1, 1]),
        (pa.array([b"cat", b"dog", None, b" cat"]), ("cat", "dog"), [0, 1, -1, 0]),
        (pa.array(["02", "01", "", "02"]), ("01", "02"), [1, 0, -1, 1]),
        (pa.array(["10", "2", " ", "2"]), tuple(map(str, range(11))), [10, 2, -1, 2]),
        (pa.array(["10", "2", None, "x"]), ("10", "2", "x"), [0, 1, -1, 2]),
    ],
)
def test_labels_of_tables(column: pa.Array, classes: tuple[str, ...], expected: list[int], tmp_path: Path) -> None:
    """Numbers of any type, truth values, bytes and names; what is missing is unknown."""
    images = [{"bytes": png(array), "path": None} for array in pixels(4)]
    pa.parquet.write_table(pa.table({"image": images, "label": column}), tmp_path / "x.parquet")
    train = load_splits(tmp_path / "x.parquet", holdout=0).train
    assert train.classes == classes and train.labels.tolist() == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([0.0, 0.5]), r"it must be a number or a name, got '0\.5'"),
        (pa.array([0, 20_000_000]), r"the label must be in -1 \.\. 999999, got 20000000"),
        (pa.array([b"a", b"\xff"]), r"'utf-8' codec can't decode"),
        (pa.array([None, [1, 2]]), r"it must be a number or a name, got '\[1, 2\]'"),
    ],
)
def test_labels_of_tables_that_are_none(column: pa.Array, message: str, tmp_path: Path) -> None:
    """The file and the row are named."""
    images = [{"bytes": png(array), "path": None} for array in pixels(len(column))]
    pa.parquet.write_table(pa.table({"image": images, "label": column}), tmp_path / "x.parquet")
    row = len(column) - 1
    with pytest.raises(ValueError, match=rf"x\.parquet: the label of row {row} in column 'label' .*: {message}"):
        load_splits(tmp_path / "x.parquet")


def test_splits_of_tables(tmp_path: Path) -> None:
    """By the first word of a file's name or by its folder; other files are left out, and rows without bytes named."""
    rows = {"image": [{"bytes": png(array), "path": None} for array in pixels(4)], "label": [0, 1, 1, 0]}
    for name in ("data/train-0.parquet", "data/validation-0.parquet", "data/extra-0.parquet", "b/test/0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(pa.table(rows), tmp_path / name)
    splits = load_splits(tmp_path)
    assert splits.test is not None and not splits.held_out
    assert splits.train.names == tuple(f"data/train-0.parquet/{row}" for row in range(4))
    assert splits.test.names == tuple(f"b/test/0.parquet/{row}" for row in range(4))
    rows["image"][2] = {"bytes": None, "path": "elsewhere.png"}
    rows["image"][3] = {"bytes": b"no image", "path": None}
    pa.parquet.write_table(pa.table(rows), tmp_path / "x.parquet")
    train = load_splits(tmp_path / "x.parquet", holdout=0).train
    assert train.ids.tolist() == [0, 1] and dict(train.skipped) == {
        "x.parquet/2": "OSError: the table has no bytes of it",
        "x.parquet/3": "no image of a known format",
    }
    with pytest.raises(ValueError, match="has its images compressed or in pages: images can be streamed"):
        load_splits(tmp_path / "x.parquet", loader="torch")
    pa.parquet.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"y\.parquet must have a column of encoded images, got a"):
        load_splits(tmp_path / "y.parquet")
    for name in ("z.parquet", "z.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 damaged")
        with pytest.raises(ValueError, match=r"z\.(parquet|arrow) cannot be read: "):
            load_splits(tmp_path / name)
