"""Cached images that someone else put there, or changed and sealed anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_cache import files, picture, same

from fastclr.data import cache, load_splits
from fastclr.data.cache_file import digest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with ten images each."""
    for index in range(20):
        picture(tmp_path / "photos" / "ab"[index % 2] / f"{index:02d}.png", index)
    return tmp_path / "photos"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the cache goes."""
    return tmp_path / "store"


def test_links_and_files_of_others_are_not_used(
    photos: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What someone else may have put into the folder is neither read nor written through."""
    locks: list[Path] = []
    locked = cache.locked
    with monkeypatch.context() as patch:
        patch.setattr(cache, "locked", lambda path, *rest, **how: (locks.append(path), locked(path, *rest, **how))[1])
        load_splits(photos, cache=store)
    (stored,) = files(store)
    whole = stored.read_bytes()
    prey = tmp_path / "prey"
    prey.write_bytes(whole)
    stored.unlink()
    stored.symlink_to(prey)
    locks[0].symlink_to(prey)
    load_splits(photos, cache=store)
    assert "is not used: it is a link or belongs to another user" in caplog.text
    assert "decoded images are not kept" in caplog.text  # the lock is a link
    assert prey.read_bytes() == whole
    locks[0].unlink()
    load_splits(photos, cache=store)
    assert not stored.is_symlink() and prey.read_bytes() == whole
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: stored.stat().st_uid + 1)
        load_splits(photos, cache=store)
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"train": {}},
        {"train": 5},
        {"held_out": "no"},
        {"train": {"classes": None}},
        {"train": {"classes": ["a"]}},
        {"train": {"names": [1] * 20}},
        {"train": {"skipped": [["a"]]}},
        {"train": {"source": 5}},
        {"train": {"fingerprint": None}},
    ],
)
def test_a_file_that_was_sealed_with_other_contents_is_made_again(
    photos: Path, store: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """A digest that fits proves that nothing broke, not that it is what was written."""
    expected = load_splits(photos, cache=store)
    (stored,) = files(store)
    with safe_open(stored, framework="pt") as file:
        metadata = json.loads(file.metadata()["fastclr"])
    tensors = load_file(stored)
    about = json.loads(bytes(tensors["about"].numpy()))
    train = change.get("train")
    merged = {**about["train"], **train} if isinstance(train, dict) and train else train
    about |= {**change, "train": merged} if "train" in change else change
    tensors["about"] = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
    save_file(tensors, stored, {"fastclr": json.dumps({**metadata, "digest": digest(tensors)})})
    found = load_splits(photos, cache=store)
    assert "is damaged and is made again" in caplog.text
    same(found.train, expected.train)


def test_images_outside_of_their_pixels_are_refused(
    photos: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a file sealed anew with sizes or offsets that lead out of the buffer."""
    picture(photos / "a" / "large.png", 9, (30, 20))
    expected = load_splits(photos, cache=store)
    (stored,) = files(store)
    with safe_open(stored, framework="pt") as file:
        metadata = json.loads(file.metadata()["fastclr"])
    for name, value in (("sizes", 2**31), ("sizes", 0), ("offsets", -1), ("offsets", 2**62)):
        tensors = load_file(stored)
        tensors[f"train.{name}"].view(-1)[0] = value
        save_file(tensors, stored, {"fastclr": json.dumps({**metadata, "digest": digest(tensors)})})
        caplog.clear()
        same(load_splits(photos, cache=store).train, expected.train)
        assert "images of train lie outside of their pixels" in caplog.text
