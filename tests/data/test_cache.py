"""Decoded images on disk: the same data comes back, nothing stale does, and trouble costs a warning."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import start
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data import ImageDataset, Splits, cache, decode_many, load_splits
from fastclr.data.cache import clear, usage


def picture(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    """Write a PNG of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with ten images each and a file that is no image."""
    root = tmp_path / "photos"
    for index in range(20):
        picture(root / "ab"[index % 2] / f"{index:02d}.png", index)
    (root / "a" / "bad.png").write_bytes(b"no image")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the cache goes."""
    return tmp_path / "store"


def files(store: Path) -> list[Path]:
    """The files in the cache, of any kind."""
    return sorted(store.iterdir())


def same(one: ImageDataset | None, other: ImageDataset | None) -> None:
    """Check every field of two data sets, and the pixels image by image."""
    assert one is not None and other is not None
    for name in ("classes", "names", "source", "skipped"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("ids", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert type(one.images) is type(other.images) and one.fingerprint == other.fingerprint
    if isinstance(one.images, Tensor) and isinstance(other.images, Tensor):
        assert torch.equal(one.images, other.images)
    elif isinstance(one.images, RaggedImages) and isinstance(other.images, RaggedImages):
        for index in range(len(one)):
            assert torch.equal(one.images.image(index), other.images.image(index))


def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be decoded: what comes back comes from the cache."""
    monkeypatch.setattr("fastclr.data.decode_many.decode_image", None)
    monkeypatch.setattr("fastclr.sources.tar.index_tar", None)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_second_start_reads_what_the_first_kept(
    ragged: bool, packed: bool, photos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders and archives, one size and many: equal to what decoding gives, without decoding."""
    if ragged:
        picture(photos / "a" / "wide.png", 99, (9, 4))
    path = photos
    if packed:
        path = tmp_path / "photos.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(photos, "photos")
    plain = load_splits(path)
    first = load_splits(path, cache=store)
    assert len(files(store)) == 1
    undecodable(monkeypatch)
    second = load_splits(path, cache=store)
    for splits in (first, second):
        assert splits.held_out
        same(splits.train, plain.train)
        same(splits.test, plain.test)
    assert second.train.skipped == (("a/bad.png", "no image of a known format"),)


def test_stored_fingerprint_is_that_of_the_pixels(photos: Path, store: Path) -> None:
    """The fingerprint that comes from the file equals one computed from what comes from the file."""
    load_splits(photos, cache=store)
    stored = load_splits(photos, cache=store).train
    assert "image_fingerprint" in vars(stored)  # not computed again: that would read every page
    fields = {name: value for name, value in vars(stored).items() if name != "image_fingerprint"}
    assert ImageDataset(**fields).fingerprint == stored.fingerprint
    assert stored.select(torch.arange(3)).fingerprint != stored.fingerprint


def test_other_tools_read_the_file(photos: Path, store: Path) -> None:
    """The safetensors library reads it whole, pixels included."""
    splits = load_splits(photos, cache=store)
    tensors = load_file(files(store)[0])
    assert isinstance(splits.train.images, Tensor)
    assert torch.equal(tensors["train.pixels"], splits.train.images)
    assert torch.equal(tensors["train.labels"], splits.train.labels)
    assert json.loads(bytes(tensors["about"].numpy()))["train"]["names"] == list(splits.train.names)


def test_writing_to_the_images_leaves_the_file_alone(photos: Path, store: Path) -> None:
    """The mapping is private."""
    load_splits(photos, cache=store)
    before = files(store)[0].read_bytes()
    images = load_splits(photos, cache=store).train.images
    assert isinstance(images, Tensor)
    images.fill_(7)
    assert files(store)[0].read_bytes() == before


def test_whatever_changes_the_result_is_another_file(photos: Path, store: Path, tmp_path: Path) -> None:
    """Size, hold-out, seed, labels and test set are part of the key: each result equals what decoding gives."""
    (tmp_path / "labels.csv").write_text("name,label\na/00.png,x\nb/01.png,y\na/02.png,x\nb/03.png,y\n")
    for kind in "ab":
        picture(tmp_path / "other" / kind / "1.png", 1)
    variants: list[dict[str, object]] = [
        {},
        {"seed": 1},
        {"holdout": 0.3},
        {"holdout": 0.0},
        {"resize_shorter": 3},
        {"labels": tmp_path / "labels.csv"},
        {"test_source": tmp_path / "other"},
    ]
    for options in variants:
        load_splits(photos, cache=store, **options)  # type: ignore[arg-type]
    assert len(files(store)) == len(variants)
    for options in variants:
        plain, stored = load_splits(photos, **options), load_splits(photos, cache=store, **options)  # type: ignore[arg-type]
        same(stored.train, plain.train)
        assert (stored.test is None) is (plain.test is None)
        if plain.test is not None:
            same(stored.test, plain.test)
    assert len(files(store)) == len(variants)


@pytest.mark.parametrize("package", ["pillow_heif", "pydicom", "tifffile", "imagecodecs", "pylibjpeg"])
def test_a_decoder_installed_later_is_another_file(
    package: str, photos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read without it is missing from the file that was stored; another version counts too."""
    load_splits(photos, cache=store)
    for count, version in ((2, "999.1"), (3, "999.2"), (3, "999.1")):
        about = tmp_path / version / f"{package}-{version}.dist-info" / "METADATA"
        about.parent.mkdir(parents=True, exist_ok=True)
        about.write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n")
        with monkeypatch.context() as patched:
            patched.syspath_prepend(tmp_path / version)
            load_splits(photos, cache=store)
        assert len(files(store)) == count
    load_splits(photos, cache=store)
    assert len(files(store)) == 3


def test_labels_that_changed_since_are_read_anew(photos: Path, store: Path, tmp_path: Path) -> None:
    """A table of the same name, size and time with other classes, and a class folder of another name."""
    table = tmp_path / "labels.csv"
    for first, second in (("x", "y"), ("y", "z")):
        table.write_text(f"name,label\na/00.png,{first}\nb/01.png,{second}\na/02.png,{first}\nb/03.png,{second}\n")
        os.utime(table, (1, 1))
        stored = load_splits(photos, cache=store, labels=table)
        assert stored.train.classes == (first, second)
        same(stored.train, load_splits(photos, labels=table).train)
    load_splits(photos, cache=store)
    (photos / "a").rename(photos / "c")
    assert load_splits(photos, cache=store).train.classes == ("b", "c")


def test_one_file_for_all_seeds_where_nothing_is_held_out(pictures: Path, store: Path) -> None:
    """A source with its own test images gives the same under every seed, and is kept once."""
    for seed in range(3):
        assert not load_splits(pictures, cache=store, seed=seed).held_out
    assert len(files(store)) == 1


def test_the_key_is_what_the_archive_holds(photos: Path, store: Path, tmp_path: Path) -> None:
    """A moved or touched archive is found again and shows its new place; one byte more is another archive."""
    path, moved = tmp_path / "one.tar", tmp_path / "two.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(photos, "photos")
    load_splits(path, cache=store)
    path.rename(moved)
    os.utime(moved, (1, 1))
    assert load_splits(moved, cache=store).train.source == f"{moved} (train)"
    assert len(files(store)) == 1
    with open(moved, "ab") as file:
        file.write(bytes(512))
    load_splits(moved, cache=store)
    assert len(files(store)) == 2  # what lay under the first name is still good


@pytest.mark.parametrize("change", ["content", "earlier", "add", "remove", "rename", "link"])
def test_changed_folders_are_decoded_again(change: str, photos: Path, store: Path) -> None:
    """Whatever changes in the folder shows, and the old file goes: it would never be used again."""
    load_splits(photos, cache=store)
    old = files(store)
    path = photos / "a" / "00.png"
    if change in ("content", "earlier"):  # the clock may have gone back by a year
        before = path.stat()
        picture(path, 200)
        os.utime(
            path, ns=(before.st_atime_ns, before.st_mtime_ns + (1 if change == "content" else -365 * 86400 * 10**9))
        )
    elif change == "add":
        picture(photos / "a" / "new.png", 201)
    elif change == "remove":
        path.unlink()
    elif change == "rename":
        path.rename(photos / "b" / "zz.png")
    else:
        (photos / "link.png").symlink_to(path)
    plain, stored = load_splits(photos), load_splits(photos, cache=store)
    same(stored.train, plain.train)
    same(stored.test, plain.test)
    assert len(files(store)) == 1 and files(store) != old


@pytest.mark.parametrize("damage", ["truncated", "header", "names", "labels", "empty", "longer"])
def test_damaged_files_are_made_again(damage: str, photos: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is cut short or differs outside the pixels is noticed, said in one line, and replaced."""
    good = load_splits(photos, cache=store)
    path = files(store)[0]
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    broken = bytearray(content)
    if damage == "names":
        broken[start + header["about"]["data_offsets"][0] + 40] ^= 1
    elif damage == "labels":
        broken[start + header["train.labels"]["data_offsets"][0]] ^= 1
    elif damage == "header":
        broken = bytearray(content.replace(b'"shape": [18, 5, 6, 3]', b'"shape": [18, 6, 5, 3]'))
        assert broken != content
    path.write_bytes({"truncated": content[:-1], "empty": b"", "longer": content + b"x"}.get(damage, bytes(broken)))
    splits = load_splits(photos, cache=store)
    same(splits.train, good.train)
    assert len(caplog.records) == 1 and "is damaged and is made again" in caplog.text
    assert path.read_bytes() == content
    caplog.clear()
    load_splits(photos, cache=store)
    assert caplog.text == ""


def test_a_folder_that_cannot_be_made_is_one_warning(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place to write, decoding goes on."""
    (tmp_path / "file").write_bytes(b"")
    splits = load_splits(photos, cache=tmp_path / "file" / "cache")
    same(splits.train, load_splits(photos).train)
    assert len(caplog.records) == 1 and "decoded images are not kept" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_warning(photos: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A home that may only be read does no harm."""
    store.mkdir(mode=0o500)
    load_splits(photos, cache=store)
    assert len(caplog.records) == 1 and "Permission denied" in caplog.text


def test_too_little_disk_is_one_warning(
    photos: Path, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written where it would not fit."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10_000, 9_000, 1_000))  # type: ignore[attr-defined]
    load_splits(photos, cache=store)
    assert len(caplog.records) == 1 and "has 1e-06 GB free" in caplog.text
    assert files(store) == []


def test_a_write_that_fails_leaves_nothing(
    photos: Path, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up meanwhile is a warning, and the torn file is removed."""

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastclr.data.cache_file.os.fsync", fails)
    load_splits(photos, cache=store)
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    assert files(store) == []


def test_what_may_be_readable_next_time_is_not_kept(
    photos: Path, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the system failed to deliver is not left out for good."""
    real = np.asarray(Image.open(photos / "a" / "00.png"))

    (lost,) = (path.read_bytes() for path in photos.rglob("07.png"))

    def flaky(data: bytes, *options: object) -> np.ndarray:
        if data == lost:
            raise OSError(5, "Input/output error")
        return real

    monkeypatch.setattr("fastclr.data.decode_many.decode_image", flaky)
    assert len(load_splits(photos, cache=store, holdout=0).train) == 20
    assert "could not be read this time" in caplog.text and files(store) == []
    monkeypatch.undo()
    assert len(load_splits(photos, cache=store, holdout=0).train) == 20  # 07.png is back, bad.png is left out


def test_a_source_that_changes_while_it_is_read_is_not_kept(
    photos: Path, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture of two states would be found again under the name of the first."""
    request = cache.Request((photos,), {}, 0.1, 0)

    def load() -> Splits:
        picture(photos / "a" / "new.png", 5)
        return load_splits(photos)

    cache.cached(request, store, load)
    assert "changed while it was read" in caplog.text and files(store) == []


def load_slowly(photos: Path, store: Path, log: Path, found: Path) -> None:
    real = decode_many.decode_image

    def slow(*arguments: Any) -> Any:
        (log / f"decoded-{time.time_ns()}").touch()
        time.sleep(0.02)
        return real(*arguments)

    decode_many.decode_image = slow  # type: ignore[assignment]
    found.write_text(load_splits(photos, cache=store, workers=1).train.fingerprint)


def test_processes_that_start_together_decode_once(photos: Path, store: Path, tmp_path: Path) -> None:
    """The others wait for the first and take what it kept; every file of the folder is decoded by one of them."""
    (tmp_path / "log").mkdir()
    found = [tmp_path / "first", tmp_path / "second"]
    started = [start(load_slowly, photos, store, tmp_path / "log", path) for path in found]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    assert {path.read_text() for path in found} == {load_splits(photos).train.fingerprint}
    assert len(list((tmp_path / "log").iterdir())) == 21
    assert len(files(store)) == 1


def test_writers_without_a_lock_do_no_harm(photos: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks, each of several writers leaves a whole file."""
    import fcntl

    def unsupported(file: object, flags: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    results: list[Splits] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        results.append(load_splits(photos, cache=store))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(files(store)) == 1
    same(load_splits(photos, cache=store).train, load_splits(photos).train)


def test_usage_and_clear(photos: Path, store: Path) -> None:
    """Only the cache's own files count and go; the folder is the user's alone."""
    load_splits(photos, cache=store)
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    size = files(store)[0].stat().st_size
    (store / "torn.fastclr.tmp").write_bytes(bytes(10))
    (store / "mine.txt").write_text("not the cache's")
    assert usage(store) == (2, size + 10) == clear(store)
    assert files(store) == [store / "mine.txt"] and usage(store) == (0, 0)
