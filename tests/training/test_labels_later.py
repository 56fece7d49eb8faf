"""Runs whose labels come, go or change: images are told apart from labels."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import TINY

import fastclr
from fastclr.cli import main
from fastclr.data import load_splits, make_shapes
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run
from fastclr.training.scoring import KnnOptions, knn


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A flat folder of 96 images, and a table of their classes beside it."""
    shapes = make_shapes(train=96, test=8).train
    (tmp_path / "photos").mkdir()
    rows = ["file_name,label"]
    for index, label in enumerate(shapes.labels.tolist()):
        Image.fromarray(shapes.images[index].numpy()).save(tmp_path / "photos" / f"{index:03d}.png")  # type: ignore[index]
        rows.append(f"{index:03d}.png,{shapes.classes[label]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "photos"


def longer(folder: Path, config: PretrainConfig) -> None:
    """Drop the last checkpoint of a finished run, and go on from the one before."""
    checkpoints = sorted((folder / "checkpoints").glob("*.pt"))
    checkpoints[-1].unlink()
    pretrain_in(folder, config, resume=True, progress=False)


def test_a_run_resumes_with_other_labels(photos: Path, tmp_path: Path) -> None:
    """The same images under other classes are the same images to a method that learns without labels."""
    labels = tmp_path / "labels.csv"
    config = dataclasses.replace(TINY, data=str(photos), labels=str(labels), holdout=0, epochs=2, cache="off")
    pretrain_in(tmp_path / "run", config, progress=False)
    before = labels.read_text()
    labels.write_text(before.replace(before.splitlines()[1].split(",")[1], "zzz"))
    assert "zzz" in labels.read_text()
    longer(tmp_path / "run", config)
    longer(tmp_path / "run", dataclasses.replace(config, labels=None))


def test_labels_that_hold_out_images_are_refused_with_the_reason(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, data=str(photos), epochs=2, cache="off")
    pretrain_in(tmp_path / "run", config, progress=False)
    with pytest.raises(ValueError, match=r"other images .* \(labels that are given later hold out test images: leave"):
        longer(tmp_path / "run", dataclasses.replace(config, labels=str(tmp_path / "labels.csv")))


@pytest.mark.parametrize("learns", ["supervised", "probe"])
def test_labels_that_are_learnt_from_are_kept(learns: str, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    config = dataclasses.replace(TINY, data=str(photos), labels=str(labels), holdout=0, epochs=2, cache="off")
    if learns == "supervised":
        config = dataclasses.replace(config, method="supervised", options=PretrainConfig(method="supervised").options)
    else:
        config = dataclasses.replace(config, online_probe=True)
    pretrain_in(tmp_path / "run", config, progress=False)
    longer(tmp_path / "run", config)
    names = sorted({line.split(",")[1] for line in labels.read_text().splitlines()[1:]})
    labels.write_text(labels.read_text().replace(names[0], "zzz"))
    with pytest.raises(ValueError, match=r"was trained on other labels than those of"):
        longer(tmp_path / "run", config)


@pytest.mark.slow
def test_labels_come_after_an_unlabelled_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command takes them; the test images are those that a labelled run holds out, and are said to be seen."""
    folder, labels = str(tmp_path / "run"), str(tmp_path / "labels.csv")
    command = ["--width", "0.125", "--epochs", "1", "--batch-size", "32", "--amp", "off", "--device", "cpu"]
    assert main(["pretrain", "--data", str(photos), *command, "--out", folder]) == 0
    assert f"evaluate it with: fastclr knn {folder} --labels LABELS.csv" in capsys.readouterr().out
    for name in ("knn", "probe", "finetune"):
        assert main([name, folder, "--device", "cpu"]) == 2
        assert "--labels" in capsys.readouterr().err
    seen = "8 test images are held out by the labels in .*labels.csv: the encoder has seen them in pretraining"
    calls = {
        "knn": [],
        "probe": ["--l2", "0.1"],
        "finetune": ["--share", "50%", "--epochs", "1", "--batch-size", "16"],
        "report": [],
    }
    for name, options in calls.items():
        assert main([name, folder, "--labels", labels, "--device", "cpu", *options]) == 0
        assert re.search(seen, capsys.readouterr().err), name
    # a teacher knows its labels
    assert main(["distill", folder, "--epochs", "1", "--device", "cpu"]) == 0
    results = fastclr.Run(folder).results
    assert results["knn"]["test_images_seen"] and results["knn"]["test_images"] == 8
    assert {"probe-lbfgs", "finetune-50pct", "distill-50pct-self"} <= set(results)
    evaluation = KnnOptions(labels=labels).open(Run.open(Path(folder)))
    config = evaluation.config
    expected = load_splits(photos, labels=labels, holdout=config.holdout, seed=config.seed)
    assert evaluation.data.test is not None and expected.test is not None
    assert evaluation.data.test.names == expected.test.names


def test_test_images_that_were_trained_on_are_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file more in the folder, and other images are held out than in pretraining."""
    labels = tmp_path / "labels.csv"
    config = dataclasses.replace(TINY, data=str(photos), labels=str(labels), epochs=1, cache="off", knn_every=0)
    pretrain_in(tmp_path / "run", config, progress=False)
    run = Run.open(tmp_path / "run")
    first = knn(run, KnnOptions(device="cpu"))
    assert not first["test_images_seen"] and first["step"] == run.newest_step() is not None
    capsys.readouterr()
    shutil.copy(photos / "000.png", photos / "0000.png")
    labels.write_text(labels.read_text() + "\n" + labels.read_text().splitlines()[1].replace("000.png", "0000.png"))
    again = knn(run, KnnOptions(device="cpu"))
    assert again["test_images_seen"] and "files came or went" in capsys.readouterr().err
    other = shutil.copytree(photos, tmp_path / "others")
    assert not knn(run, KnnOptions(device="cpu", data=str(other)))["test_images_seen"]  # nothing is known of them
    assert {"knn", "knn-others"} <= set(fastclr.Run(run.folder).results)
    assert fastclr.Run(run.folder).results["knn"]["test_images_seen"]


def test_a_score_is_returned_where_it_cannot_be_stored(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(TINY, data=str(photos), labels=str(tmp_path / "labels.csv"), epochs=1, knn_every=0)
    pretrain_in(tmp_path / "run", config, progress=False)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Run, "add_result", refuse)
    assert 0 <= knn(Run.open(tmp_path / "run"), KnnOptions(device="cpu"))["accuracy"] <= 1
    assert "the result is not stored: " in capsys.readouterr().err


def test_labels_of_the_pretraining_hold_out_what_was_not_seen(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the table of the pretraining, or a copy of it, the test images are new to the encoder."""
    config = dataclasses.replace(TINY, data=str(photos), labels=str(tmp_path / "labels.csv"), epochs=1, cache="off")
    run = fastclr.Run(pretrain_in(tmp_path / "run", config, progress=False).run.folder)
    shutil.copy(tmp_path / "labels.csv", tmp_path / "copy.csv")
    for labels in (None, str(tmp_path / "labels.csv"), str(tmp_path / "copy.csv")):
        assert not run.knn(labels=labels, device="cpu")["test_images_seen"]
    assert "has seen them" not in capsys.readouterr().err
    (tmp_path / "copy.csv").write_text("\n".join((tmp_path / "copy.csv").read_text().splitlines()[:60]))
    assert run.knn(labels=str(tmp_path / "copy.csv"), device="cpu")["test_images_seen"]


@pytest.mark.parametrize("command", ["knn", "probe", "finetune", "report"])
def test_a_share_of_the_labels_is_another_option(
    command: str, tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.save(tmp_path / "config.json")
    assert main([command, str(tmp_path), "--labels", "1%", "--device", "cpu"]) == 2
    assert "labels must be a CSV file; --share takes a share such as 1%, got '1%'" in capsys.readouterr().err
