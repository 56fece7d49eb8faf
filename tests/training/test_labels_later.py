"""Runs whose labels come, go or change: images are told apart from labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import TINY

from fastclr.data import make_shapes
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in


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
