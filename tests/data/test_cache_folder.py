"""Where decoded images are kept, and what of the source names them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from PIL import Image

from fastclr.data import cache, load_splits, make_shapes
from fastclr.data.cache import cache_folder
from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run


def test_large_archives_are_known_by_size_time_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a change of the time, of the size or near an end is another key."""
    monkeypatch.setattr(cache, "HASHED_WHOLE", 100)
    monkeypatch.setattr(cache, "EDGE", 40)
    path = tmp_path / "large.tar"

    def key(content: bytes, time: int = 5) -> str | None:
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        return cache.content_of(path)

    content = bytes(range(200))
    known = key(content)
    assert key(content) == known
    others = [key(content, 6), key(content + b"x"), key(b"x" + content[1:]), key(content[:-1] + b"x")]
    assert known not in others and len(set(others)) == 4
    assert key(content[:100] + b"x" + content[101:]) == known  # the price, and documented


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG rules, and words for none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "fastclr"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder("auto") == tmp_path / "home" / ".cache" / "fastclr"
    assert cache_folder(None) is None and cache_folder("off") is None
    assert cache_folder("some/where") == Path("some/where")


def test_a_run_goes_on_with_another_cache(tmp_path: Path) -> None:
    """Where images are kept, looked for and fetched from does not change what a run learns."""
    config = PretrainConfig(data="cifar10")
    Run.create(tmp_path / "run", config)
    moved = dataclasses.replace(config, cache="off", data_root="elsewhere", download=True)
    assert Run.open(tmp_path / "run", moved).config == moved


def test_shapes_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn in seconds from their seed."""
    monkeypatch.setattr("fastclr.data.open_source.make_shapes", lambda: make_shapes(train=8, test=8))
    load_splits("shapes", cache=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_cache_may_lie_in_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache writes is no change of the images."""
    for index in range(4):
        Image.new("RGB", (3, 3), (index, 0, 0)).save(tmp_path / f"{index}.png")
    first = load_splits(tmp_path, cache=tmp_path / "cache")
    monkeypatch.setattr("fastclr.data.decode_many.decode_image", None)
    assert load_splits(tmp_path, cache=tmp_path / "cache").train.fingerprint == first.train.fingerprint
