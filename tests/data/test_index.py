"""An index of images: what is listed, where its bytes are, and that reading them harms nobody."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stream_cases import encode, photo, write_photos, write_tar

from fastclr.data import ImageDataset, ImageIndex, decoded, load_splits
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.indexed_set import check_headers
from fastclr.sources.byte_ranges import Paths, Storage
from fastclr.sources.decode import examine, glance


def listed(path: Path, **options: object) -> ImageIndex:
    """Return the index of a source."""
    train = load_splits(path, holdout=0, loader="torch", **options).train  # type: ignore[arg-type]
    assert isinstance(train, ImageIndex)
    return train


def files(root: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.*"))}


def test_folder_and_archive_give_the_same_index(tmp_path: Path) -> None:
    """Renaming the root or packing it changes neither ids nor fingerprint, and every row reads its own file."""
    root = write_photos(tmp_path / "one", 9)
    tree = files(root)
    archive = write_tar(tmp_path / "photos.tar", dict(reversed(tree.items())))
    first = listed(root)
    renamed = Path(root.rename(tmp_path / "zz"))
    for index in (listed(renamed), listed(archive)):
        assert index.names == first.names and index.fingerprint == first.fingerprint
        assert index.ids.tolist() == list(range(9)) and index.classes == ("cat", "dog") and index.labelled
        assert [index.read(row) for row in range(9)] == [tree[name] for name in index.names]
    assert first.fingerprint != first.select(torch.arange(8)).fingerprint
    assert first.fingerprint != replace(first, labels=first.labels.flip(0)).fingerprint


def test_index_agrees_with_the_decoded_set(tmp_path: Path) -> None:
    """Everything but the pixels is what decoding gives, also the test set that is held out."""
    root = write_photos(tmp_path / "root", 20)
    (root / "cat" / "text.jpg").write_text("no image")
    streamed, decoded = (load_splits(root, seed=3, loader=kind) for kind in ("torch", "resident"))  # type: ignore[arg-type]
    assert streamed.test is not None and decoded.test is not None
    for index, dataset in ((streamed.train, decoded.train), (streamed.test, decoded.test)):
        assert isinstance(index, ImageIndex) and isinstance(dataset, ImageDataset)
        assert index.ids.tolist() == dataset.ids.tolist() and index.labels.tolist() == dataset.labels.tolist()
        assert index.names == dataset.names and index.classes == dataset.classes and index.source == dataset.source
        assert index.skipped == dataset.skipped
        assert index.nbytes == dataset.nbytes and len(index) == len(dataset)


def test_selection(tmp_path: Path) -> None:
    """A selection keeps what belongs to an image; its pictures are decoded on request."""
    root = write_photos(tmp_path / "root", 8, "PNG", ragged=False)
    index = listed(root)
    rows = torch.tensor([5, 5, 0])
    chosen = index.select(rows)
    assert chosen.ids.tolist() == [5, 5, 0] and chosen.names == tuple(index.names[i] for i in (5, 5, 0))
    pixels = decoded(chosen).images
    for i, row in enumerate(rows.tolist()):
        assert chosen.read(i) == index.read(row)
        assert np.array_equal(pixels[i], np.asarray(Image.open(root / index.names[row])))  # type: ignore[index]
    with pytest.raises(TypeError, match="int64"):
        index.select(torch.tensor([True] * 8))
    with pytest.raises(IndexError, match=r"0 .. 7, got -1 .. 8"):
        index.select(torch.tensor([-1, 8]))
    with pytest.raises(ValueError, match="names must have 3 entries, got 1"):
        replace(chosen, names=("a",))
    with pytest.raises(ValueError, match=r"labels must be in -1 .. 1, got 7 .. 7"):
        replace(chosen, labels=torch.full((3,), 7))


def read_all(index: ImageIndex) -> list[bytes]:
    """Read every image."""
    return [index.read(row) for row in range(len(index))]


@pytest.mark.parametrize("packed", [False, True])
def test_reading_in_threads_and_processes(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index can be pickled, read by many threads at once, and by a process that works in another folder."""
    root = write_photos(tmp_path / "root", 12)
    tree = files(root)
    monkeypatch.chdir(tmp_path)
    index = listed(write_tar(Path("photos.tar"), tree) if packed else Path("root"))
    expected = [tree[name] for name in index.names]
    monkeypatch.chdir("/")
    assert read_all(pickle.loads(pickle.dumps(index))) == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(index.read, list(range(12)) * 20)) == expected * 20
    with multiprocessing.get_context("fork").Pool(1) as processes:
        assert processes.apply(read_all, (index,)) == expected


def test_headers(tmp_path: Path) -> None:
    """Sizes, and whether all decoders agree on a file; a JPEG's size is that of the upright image."""
    turned = Image.Exif()
    turned[0x0112] = 6
    image = photo(0, 30, 40)
    icc = b"x" * 60_000  # a header that is longer than what is read at first
    cases = {
        "jpeg": (encode(image, "JPEG"), (30, 40, True)),
        "turned": (encode(image, "JPEG", exif=turned), (40, 30, True)),
        "long": (encode(image, "JPEG", icc_profile=icc), (30, 40, True)),
        "grey": (encode(image.convert("L"), "JPEG"), (30, 40, True)),
        "cmyk": (encode(image.convert("CMYK"), "JPEG"), (30, 40, False)),
        "rgb": (encode(image, "JPEG", keep_rgb=True), (30, 40, False)),
        "png": (encode(image, "PNG"), (30, 40, False)),
        "webp": (encode(photo(0, 600, 800), "WEBP", lossless=True), (600, 800, False)),
        "tiff": (encode(photo(0, 300, 400), "TIFF"), (300, 400, False)),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    storage = Storage.of_files(str(tmp_path / name) for name in cases)
    for row, (content, (height, width, plain)) in enumerate(cases.values()):
        header = glance(storage, row) or examine(storage.read(row))
        assert (header.height, header.width, header.plain, header.size) == (height, width, plain, len(content))


@pytest.mark.parametrize("cut", [1, 2, 20, 300])
def test_a_jpeg_that_is_cut_short_is_refused_like_pillow_refuses_it(cut: int, tmp_path: Path) -> None:
    """Pillow's verdict counts, and a file that only has something after its end is kept."""
    jpeg = encode(photo(0, 60, 80), "JPEG")
    for name, content in (("cut.jpg", jpeg[:-cut]), ("long.jpg", jpeg + b"\0" * cut), ("good.jpg", jpeg)):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match="truncated"):
        Image.open(tmp_path / "cut.jpg").load()
    index = listed(tmp_path)
    assert index.names == ("good.jpg", "long.jpg") and index.ids.tolist() == [1, 2]
    assert index.skipped[0][0] == "cut.jpg" and "truncated" in index.skipped[0][1]


def test_what_is_no_image_has_a_reason(tmp_path: Path) -> None:
    """Empty files, text, bombs, files that are gone and files that are too large are named with a reason."""
    bomb = bytearray(encode(photo(0, 8, 8), "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    contents = {"empty": b"", "text": b"hello", "bomb": bytes(bomb)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**30 + 1)  # takes no room on the disk
    os.mkfifo(tmp_path / "pipe")
    names = [*contents, "huge", "gone", "pipe"]
    reasons = check_headers(Storage.of_files(str(tmp_path / name) for name in names), DecodeOptions())
    for reason, expected in zip(
        reasons,
        ["no image", "no image", "DecompressionBomb", "larger than", "FileNotFoundError", "not a regular"],
        strict=True,
    ):
        assert isinstance(reason, str) and expected in reason


def test_mostly_unreadable(tmp_path: Path) -> None:
    """More than half unreadable is an error that names files."""
    write_photos(tmp_path / "root", 2)
    for i in range(3):
        (tmp_path / "root" / "cat" / f"x{i}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 5 images in .* cannot be read: 'cat/x0.jpg': no image"):
        listed(tmp_path / "root")


def test_paths_of_any_kind() -> None:
    """Names that are no text keep their bytes."""
    names = ["/a", "/\u65e5\u672c", os.fsdecode(b"/\xff\xfe"), "/" + "n" * 300]
    paths = pickle.loads(pickle.dumps(Paths(names)))
    assert len(paths) == 4 and [paths[i] for i in range(4)] == names
