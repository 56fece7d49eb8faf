"""Folders and tar archives: splits, classes, ids, and everything that people's folders also contain."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data import ImageDataset, load_dataset, load_splits

Tree = dict[str, bytes]
Store = Callable[[Tree], Path]


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """A PNG whose pixels count up from ``value``."""
    pixels = (np.arange(size[0] * size[1] * 3) + value).astype(np.uint8).reshape(*size, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def first(dataset: ImageDataset) -> list[int]:
    """Return the first byte of every image: the ``value`` it was made with."""
    images = dataset.images
    return [
        int((images[i] if isinstance(images, Tensor) else images.image(i)).reshape(-1)[0]) for i in range(len(dataset))
    ]


def write_folder(root: Path, tree: Tree) -> Path:
    """Write a tree as a folder."""
    root.mkdir()
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, tree: Tree, top: str = "") -> Path:
    """Write a tree as an archive, in reverse order, so that storage order is not name order."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in reversed(tree.items()):
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(params=["folder", "tar", "tar.gz", "wrapped.tgz"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Write a tree as a folder or as an archive, and return its path."""

    def write(tree: Tree) -> Path:
        if request.param == "folder":
            return write_folder(tmp_path / "root", tree)
        return write_tar(
            tmp_path / f"data.{request.param}", tree, "some/where/" if "wrapped" in request.param else "./"
        )

    return write


SPLIT_TREE = {
    "test/cat/a.png": png(1),
    "test/dog/a.png": png(2),
    "train/cat/b.png": png(11),
    "train/cat/c.png": png(12),
    "train/dog/a.png": png(13),
    "train/notes.txt": b"not an image",
    "other/x.png": png(99),
}


def test_train_and_test_folders(store: Store) -> None:
    """Splits, classes, labels, ids and names come from the relative paths; other folders do not count."""
    splits = load_splits(store(SPLIT_TREE))
    assert splits.test is not None and splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.train.names == ("cat/b.png", "cat/c.png", "dog/a.png")
    assert first(splits.train) == [11, 12, 13] and splits.train.labels.tolist() == [0, 0, 1]
    assert splits.train.ids.tolist() == [0, 1, 2]
    assert first(splits.test) == [1, 2] and splits.test.labels.tolist() == [0, 1]
    assert isinstance(splits.train.images, Tensor) and splits.train.images.shape == (3, 4, 4, 3)


def test_load_dataset_takes_one_split(store: Store) -> None:
    """Each split can be read alone, with the same labels."""
    path = store(SPLIT_TREE)
    for split, expected in (("train", load_splits(path).train), ("test", load_splits(path).test)):
        dataset = load_dataset(path, split)  # type: ignore[arg-type]
        assert expected is not None and dataset.fingerprint == expected.fingerprint
    with pytest.raises(ValueError, match="'train' or 'test', got 'all'"):
        load_dataset(path, "all")  # type: ignore[arg-type]


def test_flat_and_single_folders_are_unlabelled(store: Store) -> None:
    """Without class folders every label is -1 and there is nothing to test on."""
    splits = load_splits(store({"b.png": png(2), "a.png": png(1), "readme.txt": b""}))
    assert first(splits.train) == [1, 2] and splits.train.labels.tolist() == [-1, -1]
    assert splits.train.classes == () and splits.test is None and not splits.train.labelled


def test_single_class_folder_is_unlabelled(store: Store) -> None:
    """One class tells nothing apart, with a train folder or without; one class in the test set alone is a class."""
    one = {"train/only/b.png": png(2), "test/only/a.png": png(1)}
    path = store({"whole/only/" + name: content for name, content in one.items()})
    splits = load_splits(path)
    assert splits.train.labels.tolist() == [-1] and splits.train.names == ("only/b.png",) and splits.test is None


def test_test_set_with_a_single_class(store: Store) -> None:
    """A test folder may hold fewer classes than the training folder."""
    test = load_splits(store({"train/a/1.png": png(1), "train/b/1.png": png(2), "test/b/1.png": png(3)})).test
    assert test is not None and test.labels.tolist() == [1] and test.classes == ("a", "b")


def test_train_folder_alone(store: Store) -> None:
    """A source that is only a train folder is read like the folder itself."""
    dataset = load_dataset(store({f"train/{kind}/1.png": png(i) for i, kind in enumerate("ab")}))
    assert dataset.names == ("a/1.png", "b/1.png") and dataset.labels.tolist() == [0, 1]


def test_nested_folders_and_images_beside_them(store: Store) -> None:
    """The first folder is the class at any depth; images beside the class folders are of unknown class."""
    dataset = load_dataset(store({"a/1.png": png(1), "a/deep/er/2.png": png(2), "b/3.png": png(3), "top.png": png(4)}))
    assert dict(zip(first(dataset), dataset.labels.tolist(), strict=True)) == {1: 0, 2: 0, 3: 1, 4: -1}


def test_holdout_is_stratified_and_seeded(store: Store) -> None:
    """Without a test split a tenth of every class is held out; both parts keep the ids of the whole."""
    tree = {f"{kind}/{i:02d}.png": png(i) for kind in ("a", "b") for i in range(20)}
    path = store(tree)
    whole, splits = load_dataset(path), load_splits(path, seed=3)
    assert splits.test is not None and splits.test.labels.bincount().tolist() == [2, 2]
    assert splits.train.labels.bincount().tolist() == [18, 18]
    assert sorted(splits.train.ids.tolist() + splits.test.ids.tolist()) == whole.ids.tolist() == list(range(40))
    for part in (splits.train, splits.test):
        assert part.names == tuple(whole.names[i] for i in part.ids.tolist())
        assert first(part) == [i % 20 for i in part.ids.tolist()]
    again, other = load_splits(path, seed=3).test, load_splits(path, seed=4).test
    assert again is not None and other is not None
    assert again.names == splits.test.names != other.names
    assert load_splits(path, holdout=0).test is None
    with pytest.raises(ValueError, match=r"holdout must be at least 0 and below 1, got 1\.0"):
        load_splits(path, holdout=1.0)
    with pytest.raises(ValueError, match="has no test split"):
        load_dataset(path, "test")


def test_val_is_used_where_test_is_unlabelled(store: Store) -> None:
    """ImageNet's test folder has no labels; its val folder has. Test images beside the class folders are left out."""
    tree = {f"train/{kind}/1.png": png(1) for kind in "ab"} | {"test/1.png": png(5), "test/2.png": png(6)}
    tree |= {"val/a/1.png": png(7), "val/b/1.png": png(8), "val/loose.png": png(9)}
    test = load_splits(store(tree)).test
    assert test is not None and first(test) == [7, 8] and test.labels.tolist() == [0, 1]


def test_test_source(tmp_path: Path) -> None:
    """Another source gives the test set, with the labels of the training classes."""
    train = write_folder(tmp_path / "a", {f"{kind}/1.png": png(i) for i, kind in enumerate("abc")})
    test = write_tar(tmp_path / "b.tar", {"c/1.png": png(9), "b/1.png": png(8)})
    splits = load_splits(train, test)
    assert splits.test is not None and len(splits.train) == 3
    assert first(splits.test) == [8, 9] and splits.test.labels.tolist() == [1, 2]
    unknown = write_folder(tmp_path / "c", {"b/1.png": png(1), "z/1.png": png(1)})
    with pytest.raises(ValueError, match="1 test classes that the training set lacks: z"):
        load_splits(train, unknown)
    flat = write_folder(tmp_path / "d", {"1.png": png(1)})
    with pytest.raises(ValueError, match="unlabelled"):
        load_splits(train, flat)
    assert load_splits(flat, test).test is None


def test_mixed_sizes_become_ragged(store: Store) -> None:
    """Images of several sizes share one buffer and equal what Pillow decodes."""
    sizes = [(1, 1), (4, 7), (30, 2), (5, 5)]
    tree = {f"{i}.png": png(i, size) for i, size in enumerate(sizes)}
    images = load_dataset(store(tree)).images
    assert isinstance(images, RaggedImages) and images.sizes.tolist() == [list(size) for size in sizes]
    for i, data in enumerate(tree.values()):
        assert np.array_equal(images.image(i).numpy(), np.asarray(Image.open(io.BytesIO(data))))


def test_resize_shorter_and_workers(store: Store) -> None:
    """Larger images are brought down on loading; the number of threads does not change the result."""
    path = store({f"{i:03d}.png": png(i, (20, 30)) for i in range(40)})
    one, many = load_dataset(path, resize_shorter=10, workers=1), load_dataset(path, resize_shorter=10, workers=5)
    assert isinstance(one.images, Tensor) and one.images.shape == (40, 10, 15, 3)
    assert one.fingerprint == many.fingerprint
    for option in ("resize_shorter", "workers", "memory_limit"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1 or None, got 0"):
            load_dataset(path, **{option: 0})  # type: ignore[arg-type]


def test_ids_do_not_depend_on_the_root_or_on_readability(tmp_path: Path) -> None:
    """Renaming or packing the folder moves no id, and an unreadable file keeps its place."""
    tree = {f"{kind}/{i}.png": png(i) for kind in "ab" for i in range(4)}
    one, two = write_folder(tmp_path / "one", tree), write_folder(tmp_path / "zzz \u00e9", tree)
    prints = {load_dataset(path).fingerprint for path in (one, two, write_tar(tmp_path / "t.tar", tree, "top/"))}
    assert len(prints) == 1
    (two / "a/1.png").write_bytes(b"broken")
    dataset = load_dataset(two)
    assert dataset.ids.tolist() == [0, 2, 3, 4, 5, 6, 7] and dataset.names[1] == "a/2.png"
    assert [name for name, _ in dataset.skipped] == ["a/1.png"]


def test_damaged_files_are_skipped_and_named(store: Store) -> None:
    """Truncated, empty and mislabelled files are left out; the rest is read."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    tree = {f"good{i}.png": png(i) for i in range(5)}
    tree |= {"short.jpg": buffer.getvalue()[:600], "empty.png": b"", "text.jpg": b"hello", "pixel.png": png(7, (1, 1))}
    dataset = load_dataset(store(tree))
    assert len(dataset) == 6 and {name for name, _ in dataset.skipped} == {"short.jpg", "empty.png", "text.jpg"}
    assert "truncated" in dict(dataset.skipped)["short.jpg"]
    assert dict(dataset.skipped)["text.jpg"] == dict(dataset.skipped)["empty.png"] == "no image of a known format"


def test_mostly_or_only_unreadable(store: Store) -> None:
    """More than half unreadable is an error that names files."""
    path = store({"a.jpg": b"1", "b.jpg": b"2", "c.png": png(1)})
    with pytest.raises(
        ValueError, match=r"2 of 3 images in .* cannot be read: '.*a\.jpg': no image of a known format; '.*b.jpg'"
    ):
        load_splits(path)


def test_split_without_a_readable_image(store: Store) -> None:
    """A test split that cannot be read is an error even where most files of the source can."""
    tree = {f"train/{kind}/{i}.png": png(i) for kind in "ab" for i in range(3)} | {
        "val/a/1.png": b"",
        "val/b/1.png": b"",
    }
    with pytest.raises(ValueError, match=r"none of the 2 test images in .* can be read"):
        load_splits(store(tree))


def test_no_images(store: Store, tmp_path: Path) -> None:
    """A source without images says what it found and what it looks for."""
    with pytest.raises(ValueError, match=r"no images in .* it has 1 other files .* images end in \.jpg"):
        load_splits(store({"labels.csv": b"a,b"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*empty: it has 0 other files"):
        load_splits(tmp_path / "empty")


def test_hidden_files_and_names_of_any_kind(store: Store) -> None:
    """Hidden files and macOS metadata are no images; non-ASCII, spaces and long names are fine."""
    tree = {".hidden.png": png(1), "__MACOSX/x.png": png(2), "._a.png": png(3), ".git/y.png": png(4)}
    good = {"\u65e5\u672c/\u00e4 \u00f6.png": png(5), "x/" + "n" * 240 + ".PNG": png(6)}
    dataset = load_dataset(store(tree | good))
    assert sorted(first(dataset)) == [5, 6] and set(dataset.classes) == {"\u65e5\u672c", "x"}
    assert dataset.skipped == ()


def test_unsupported_paths(tmp_path: Path) -> None:
    """A path that is not there, or no folder or archive, is named with what would do."""
    with pytest.raises(ValueError, match=r"nowhere does not exist: give a folder of images, an archive"):
        load_splits(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.zip is an archive, which is not read: unpack it"):
        load_splits(tmp_path / "a.zip")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ValueError, match=r"pipe\.tar is neither"):
        load_splits(tmp_path / "pipe.tar")


def test_links_pipes_and_sockets_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop ends, a pipe does not block, nothing outside the folder is read, and all of it is reported."""
    kinds = {"a": range(1, 11), "b": range(11, 21)}
    root = write_folder(tmp_path / "root", {f"{k}/{i:02d}.png": png(i) for k, some in kinds.items() for i in some})
    outside = write_folder(tmp_path / "outside", {"secret.png": png(30)})
    (root / "a/loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "out").symlink_to(outside)
    (root / "file.png").symlink_to(outside / "secret.png")
    os.mkfifo(root / "pipe.png")
    monkeypatch.chdir(root)  # socket paths are limited to about 100 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        dataset = load_dataset(root)
    assert first(dataset) == list(range(1, 21))
    assert dict(dataset.skipped) == {
        "a/loop": "symbolic link, not followed: it leads to what is listed anyway",
        "self.png": "symbolic link, not followed: it leads nowhere",
        **dict.fromkeys(["out", "file.png"], "symbolic link, not followed: 1 image(s) lie behind it"),
        **dict.fromkeys(["pipe.png", "socket.png"], "not a regular file"),
    }
    (tmp_path / "link").symlink_to(root)
    assert load_dataset(tmp_path / "link").fingerprint == dataset.fingerprint


def test_tricks_in_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that climb out, links, devices, doubles and giants are refused and reported; nothing is written."""
    monkeypatch.setattr("fastclr.sources.tar.MAX_MEMBER_BYTES", 10_000)
    path = tmp_path / "tricks.tar"
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, target
            archive.addfile(info, io.BytesIO(content))

        add("good/1.png", png(1))
        add("./good//./2.png", png(2))
        add("../up.png", png(3))
        add("good/../../up.png", png(4))
        add(str(tmp_path / "absolute.png"), png(5))
        add("link.png", kind=tarfile.SYMTYPE, target="/etc/hostname")
        add("hard.png", kind=tarfile.LNKTYPE, target="/etc/hostname")
        add("hard up.png", kind=tarfile.LNKTYPE, target="../up.png")
        add("before.png", kind=tarfile.LNKTYPE, target="good/3.png")
        add("good/../hard.png", kind=tarfile.LNKTYPE, target="good/1.png")
        add("device.png", kind=tarfile.CHRTYPE)
        add("pipe.png", kind=tarfile.FIFOTYPE)
        add("good/1.png", png(6))
        add("giant.png", bytes(10_001))
        add("hard giant.png", kind=tarfile.LNKTYPE, target="giant.png")
        for number in range(3, 10):
            add(f"good/{number}.png", png(number))
    before = sorted(tmp_path.rglob("*"))
    dataset = load_dataset(path)
    assert first(dataset) == list(range(1, 10)) and dataset.names == tuple(f"{number}.png" for number in range(1, 10))
    absolute = str(tmp_path / "absolute.png")
    refused = {
        "../up.png",
        "good/../../up.png",
        absolute,
        "link.png",
        "hard.png",
        "hard up.png",
        "before.png",
        "good/../hard.png",
        "hard giant.png",
        "device.png",
        "pipe.png",
        "giant.png",
    }
    assert {name for name, _ in dataset.skipped} == refused | {"good/1.png"} and len(dataset.skipped) == 13
    assert dict(dataset.skipped)["../up.png"].startswith("unsafe name")
    assert dict(dataset.skipped)["link.png"] == "symbolic link, not followed"
    assert dict(dataset.skipped)["hard.png"] == "hard link to no file before it"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_damaged_archives(name: str, tmp_path: Path) -> None:
    """An archive that is cut short, overwritten or no archive is an error that names it."""
    rng = np.random.default_rng(0)
    path = write_tar(tmp_path / name, {f"{i}.png": rng.bytes(5000) for i in range(20)})
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no archive at all", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is damaged, cut short, or no tar archive"):
            load_splits(path)


def test_memory_is_estimated_before_it_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many pixels are an error with a way out, before anything is decoded; resizing is taken into account."""
    path = store({f"{i:03d}.png": png(i, (20, 20)) for i in range(100)})
    assert len(load_dataset(path, memory_limit=120_000)) == 100
    assert len(load_dataset(path, memory_limit=30_000, resize_shorter=10)) == 100
    monkeypatch.setattr("fastclr.data.decode_many.decode_image", None)
    with pytest.raises(ValueError, match=r"100 images of .* take about 0.00012 GB decoded, .* set resize_shorter"):
        load_dataset(path, memory_limit=119_999)


def test_memory_limit_holds_where_the_sample_misleads(store: Store) -> None:
    """When the sampled headers are small and the rest is large, decoding stops at the limit."""
    path = store({"0.png": png(0, (1, 1))} | {f"{i}.png": png(i, (20, 20)) for i in range(1, 20)})
    with pytest.raises(ValueError, match="GB decoded"):
        load_dataset(path, memory_limit=10_000)


def test_labels_are_int64_on_the_cpu(store: Store) -> None:
    """The tensors are what the loaders expect."""
    dataset = load_dataset(store(SPLIT_TREE))
    assert dataset.labels.dtype == dataset.ids.dtype == torch.int64 and dataset.labels.device.type == "cpu"
