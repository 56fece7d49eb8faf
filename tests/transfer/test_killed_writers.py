"""Kills and full disks while a command writes: what was there stays whole, and the next call ends as if alone."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damaged_cases import STORED
from forked import run
from safetensors.torch import load_file, save

import fastclr.files
from fastclr.cli import main


def killed(moment: int, command: list[str]) -> int:
    """Die at the n-th moment at which a file is whole but not yet there, or is there but not yet forced to disk."""
    moments = itertools.count(1)

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return wrapped

    os.replace, os.fsync = dying(os.replace), dying(os.fsync)
    return main(command)


@pytest.fixture
def folder(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with its images."""
    shutil.copytree(STORED, tmp_path / "run", ignore=shutil.ignore_patterns("end.*"))
    (tmp_path / "pictures").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


COMMANDS = {
    "export": ["export", "run", "--no-check", "--overwrite"],
    "finetune": ["finetune", "run", "--share", "25%", "--epochs", "1", "--batch-size", "16", "--overwrite"],
    "embed": ["embed", "run", "pictures", "--out", "f.npz", "--split", "test", "--device", "cpu"],
    "data": ["data", "pictures"],
}
RESULTS = {
    "export": "run/export/safetensors/encoder.safetensors",
    "finetune": "run/finetune-25pct/model.safetensors",
    "embed": "f.npz",
    "data": "pictures",
}


def result(command: str) -> bytes:
    """Return what a command wrote; nothing for `data`."""
    path = Path(RESULTS[command])
    if not path.is_file():
        return b""
    # safetensors writes metadata in any order
    return save(load_file(path)) if path.suffix == ".safetensors" else path.read_bytes()


def leftovers() -> list[Path]:
    """Return temporary files and unfinished parts."""
    return [path for pattern in ("*.tmp", "*.parts") for path in Path().rglob(pattern)]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "finetune", "embed"])
def test_a_killed_command_is_repeated_and_ends_alike(folder: Path, command: str) -> None:
    expected: bytes | None = None
    for moment in (2, 5):  # before the names of the first and the second file
        run(killed, moment, COMMANDS[command], status=-signal.SIGKILL)
        assert result(command) in (b"", expected)
        assert main(COMMANDS[command]) == 0
        expected = expected or result(command)
        assert result(command) == expected and not leftovers()
        if command == "embed":
            Path(RESULTS[command]).unlink()


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_full_disk_is_an_error_of_one_line(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(COMMANDS[command]) == 0
    before = result(command)
    if command == "embed":
        Path(RESULTS[command]).unlink()
    capsys.readouterr()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fastclr.files.os, "fsync", full)
        status = main(COMMANDS[command])
    message = capsys.readouterr().err
    if command == "data":  # it writes nothing
        assert status == 0
        return
    assert status == 2 and "No space left on device" in message and "Traceback" not in message
    assert result(command) == (b"" if command == "embed" else before)
    assert not list(Path().rglob("*.tmp"))
    assert main(COMMANDS[command]) == 0
    assert result(command) == before and not leftovers()
