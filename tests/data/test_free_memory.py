"""What the machine has to offer: memory, a terminal, Pillow and tqdm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastclr import device
from fastclr.data import load_dataset
from fastclr.device import available_cores, available_memory


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@pytest.mark.parametrize(("limit", "expected"), [(None, 2048_000), ("max\n", 2048_000), ("1500000\n", 1_000_000)])
def test_available_memory(limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller of the kernel's estimate and the rest of the container's limit counts."""
    (tmp_path / "meminfo").write_text("MemTotal:       9999 kB\nMemFree:  10 kB\nMemAvailable:   2000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("500000\n")
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert available_memory() == expected


def test_available_memory_without_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the built-in memory counts, and a system that does not tell sets no limit."""
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "missing")
    assert available_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delattr(os, "sysconf")
    assert available_memory() == 2**63 - 1


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 8),
        ({"": "max 100000", "a/b": "max 100000"}, 8),
        ({"a/b": "150000 100000"}, 2),  # 1.5 cores
        ({"a/b": "20000 100000"}, 1),
        ({"a/b": "400000 100000", "a": "300000 100000"}, 3),  # whichever group allows least
        ({"": "50000 10000"}, 5),  # as a container sees its own
        ({"a/b": "1600000 100000"}, 8),
        ({"a/b": "damaged", "other": "100000 100000"}, 8),
    ],
)
def test_available_cores(
    quotas: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Affinity counts, and what the control groups of this process allow."""
    for group, text in quotas.items():
        (tmp_path / "fs" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / group / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "own").write_text("1:name=old:/x\n0::/a/b\n")
    monkeypatch.setattr(device, "CGROUP", tmp_path / "fs")
    monkeypatch.setattr(device, "GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    assert available_cores() == expected
    (tmp_path / "own").unlink()
    assert available_cores() == 8


def test_default_limit_is_half_of_the_free_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding and packing never hold more than twice the pixels."""
    monkeypatch.setattr("fastclr.data.decode_many.available_memory", lambda: 2 * 48)
    assert len(load_dataset(photos)) == 1
    monkeypatch.setattr("fastclr.data.decode_many.available_memory", lambda: 2 * 47)
    with pytest.raises(ValueError, match="half of the free memory"):
        load_dataset(photos)


@pytest.mark.parametrize(("module", "word"), [("PIL", "Pillow"), ("tqdm.auto", "tqdm")])
def test_missing_packages_are_named(module: str, word: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {word}: pip install 'fastclr\[train\]'"):
        load_dataset(photos)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_bar_only_on_a_terminal(
    terminal: bool, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs stay free of progress bars."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    load_dataset(photos)
    captured = capsys.readouterr()
    assert ("decoding" in captured.err) is terminal and captured.out == ""
