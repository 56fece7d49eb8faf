"""Runs with relative paths are used from any folder; what is not found is said with the option that names it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import fastclr
from fastclr.cli import main
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run


def test_a_run_finds_its_images_from_elsewhere(
    pictures: Path,
    tiny: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its paths are stored as they were given, and found from the folder of the start; a moved project goes on."""
    project = tmp_path / "project"
    shutil.copytree(pictures, project / "photos")
    monkeypatch.chdir(project)
    config = dataclasses.replace(tiny, data="photos", epochs=1, cache="off")
    pretrain_in(Path("run"), config, progress=False)
    stored = json.loads(Path("run/config.json").read_text())
    assert stored["data"] == "photos" and stored["started_in"] == str(project)
    assert Run.open(Path("run")).config.data == str(project / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fastclr.Run(project / "run").knn(device="cpu")["test_images"] == 64
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert Run.open(Path("run")).config.data == "photos"
    assert main(["knn", "run", "--device", "cpu"]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["knn", "moved/run", "--device", "cpu"]) == 2
    assert "--data: photos does not exist" in capsys.readouterr().err
    assert main(["knn", "moved/run", "--data", "moved/photos", "--device", "cpu"]) == 0


def test_names_and_patterns(tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of data sets stay names, though there is a folder so called; a pattern is found by its folder."""
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shards").mkdir()
    monkeypatch.chdir(tmp_path)
    for data, expected in (("shapes", "shapes"), ("shards/x-{00..03}.tar", str(tmp_path / "shards/x-{00..03}.tar"))):
        dataclasses.replace(tiny, data=data).save(tmp_path / "config.json")
        assert PretrainConfig.load(tmp_path / "config.json").data == expected


def test_what_is_not_there_is_said_with_its_option(tiny: PretrainConfig, pictures: Path, tmp_path: Path) -> None:
    picture = next(pictures.rglob("*.png"))
    for options, message in (
        ({"data": str(tmp_path / "no")}, "--data: .*no does not exist: give a folder"),
        ({"test_data": str(tmp_path / "no")}, "--test-data: .*no does not exist"),
        ({"data": str(picture)}, r"--data: .*\.png is a file, but no archive of images"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain_in(tmp_path / "run", dataclasses.replace(tiny, **options), progress=False)
    with pytest.raises(ValueError, match=r"one step needs 4096 images .* choose a smaller batch_size$"):
        pretrain_in(tmp_path / "run", dataclasses.replace(tiny, batch_size=4096), progress=False)
