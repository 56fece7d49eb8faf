"""Links that someone planted in the folder of a run lead no command to write elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damaged_cases import STORED

from fastclr.cli import main

# every file that a command writes beside the checkpoints, and the name under which it is written first
FILES = ("config.json", "environment.json", "results.json", "report.html", "encoder.safetensors", "metrics.jsonl")
FOLDERS = ("checkpoints", "export", "finetune-25pct", "tensorboard")


@pytest.fixture
def folder(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that can go on, and beside it files and folders that nobody asked to change."""
    shutil.copytree(STORED, tmp_path / "run", ignore=shutil.ignore_patterns("end.*"))
    (tmp_path / "pictures").symlink_to(pictures)
    for name in FOLDERS:
        (tmp_path / "prey" / name).mkdir(parents=True)
    for name in FILES:
        (tmp_path / "prey" / name).write_text("precious")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def untouched(folder: Path) -> bool:
    """Tell whether everything beside the run is as it was."""
    prey = folder.parent / "prey"
    files = {path.relative_to(prey).as_posix(): path.read_text() for path in prey.rglob("*") if path.is_file()}
    return files == dict.fromkeys(FILES, "precious")


@pytest.mark.slow
def test_files(folder: Path) -> None:
    """A link in the place of a temporary file is replaced; one in the place of the log is an error."""
    for name in FILES[:-1]:
        (folder / f"{name}.tmp").symlink_to(folder.parent / "prey" / name)
    for name in ("report.html", "encoder.safetensors", "results.json.tmp"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "prey" / name.removesuffix(".tmp"))
    (folder / "checkpoints" / "step-00000008.pt.tmp").symlink_to(folder.parent / "prey" / "config.json")
    assert main(["pretrain", "--resume", str(folder)]) == 0
    assert main(["knn", str(folder), "--device", "cpu"]) == 0
    assert main(["export", str(folder), "--no-check"]) == 0
    assert untouched(folder) and not (folder / "report.html").is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/.lock"])
def test_the_log_and_the_lock(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "prey" / "metrics.jsonl")
    status = main(["pretrain", "--resume", str(folder)])
    assert untouched(folder)
    # the log is cut back first, and so replaced
    assert status == (2 if name.endswith(".lock") else 0), capsys.readouterr().err


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "checkpoints":
        shutil.move(folder / name, folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / ("moved" if name == "checkpoints" else f"prey/{name}"))
    commands = {
        "checkpoints": ["pretrain", "--resume", str(folder)],
        "tensorboard": ["pretrain", "--resume", str(folder), "--tensorboard"],
        "export": ["export", str(folder), "--no-check"],
        "finetune-25pct": ["finetune", str(folder), "--share", "25%", "--epochs", "1", "--batch-size", "16"],
    }
    before = sorted(folder.parent.glob("moved/*"))
    assert main(commands[name]) == 2
    assert f"{name} is a link" in capsys.readouterr().err
    assert untouched(folder) and sorted(folder.parent.glob("moved/*")) == before
