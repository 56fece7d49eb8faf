"""Search, comparison, survey and the few-label stages from Python give what their commands print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from my_nets import Maps
from test_api import QUICK

import fastclr
from fastclr import Run
from fastclr.api.starting import how_to_go_on
from fastclr.cli import main
from fastclr.training.config import PretrainConfig
from fastclr.transfer.feature_file import read_features


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Run:
    return fastclr.pretrain(pictures, out=tmp_path_factory.mktemp("runs") / "one", **{**QUICK, "epochs": 1})


@pytest.fixture(scope="module")
def features(run: Run, pictures: Path) -> Path:
    path = run.folder / "features.npz"
    run.embed(pictures, path, device="cpu")
    return path


def test_search_finds_the_highest_cosines(
    run: Run, features: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_features(features)
    unit = table.features / np.linalg.norm(table.features, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    order = [int(row) for row in np.argsort(-cosines, kind="stable") if row != 3][:4]
    found = fastclr.search(features, 3, k=4)
    assert [each.id for each in found] == order
    assert [each.cosine for each in found] == pytest.approx(cosines[order].tolist(), abs=1e-5)
    assert [each.label for each in found] == [table.classes[table.labels[row]] for row in order]
    assert fastclr.search(features, str(table.names[3]), k=4) == found
    near = fastclr.search(features, pictures / str(table.names[3]), run=run, k=1, device="cpu")[0]
    assert near.id == 3 and near.cosine == pytest.approx(1, abs=1e-5) and near.name == table.names[3]
    assert fastclr.search(str(features), pictures / str(table.names[3]), run=run.folder, k=1, device="cpu") == [near]
    assert main(["search", str(features), "3", "--k", "4"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [each.name for each in found]
    with pytest.raises(ValueError, match="pass the run that made the features"):
        fastclr.search(features, pictures / str(table.names[3]))


def test_embedding_with_labels_from_a_table(run: Run, pictures: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(pictures).as_posix() for path in (pictures / "test").rglob("*.png"))
    kinds = [f"kind {index % 3}" for index in range(len(names))]
    rows = [f"{name},{kind}" for name, kind in zip(names, kinds, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows]))
    flags = ["--split", "test", "--device", "cpu", "--labels", str(tmp_path / "labels.csv")]
    assert main(["embed", str(run.folder), str(pictures), "--out", str(tmp_path / "typed.npz"), *flags]) == 0
    options: dict[str, Any] = {"split": "test", "device": "cpu", "labels": tmp_path / "labels.csv"}
    run.embed(pictures, tmp_path / "called.npz", **options)
    for name in ("typed.npz", "called.npz"):
        table = read_features(tmp_path / name)
        assert [table.classes[label] for label in table.labels] == kinds


def test_comparison_has_a_row_for_each_run(
    run: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fastclr.pretrain(pictures, encoder=Maps(), out=tmp_path / "two", epochs=1, device="cpu", batch_size=64)
    table = fastclr.compare([run, other.folder], tmp_path / "page.html")
    assert table.path.is_file() and [row["run"] for row in table.runs] == ["one", "two"]
    assert table.runs[0]["images"] == "128" and table.runs[1]["method"] == "SimCLR"
    assert main(["compare", str(run.folder), str(other.folder), "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out.splitlines()
    for line, cells in zip(printed[:2], (list(table.runs[0]), list(table.runs[0].values())), strict=True):
        assert line.split() == " ".join(cells).split()
    with pytest.raises(ValueError, match="at least 2 runs"):
        fastclr.compare([run])


def test_survey_is_what_the_command_reports(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fastclr.survey(pictures)
    assert main(["data", str(pictures), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["images"] == found.splits["train"].images == 128
    assert fastclr.survey((np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2)).splits["train"].images == 6
    with pytest.raises(ValueError, match="memory must be a positive number, got 0"):
        fastclr.survey(pictures, memory=0)


def test_few_labels_from_python_and_on_the_command_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short: dict[str, Any] = {"share": "50%", "epochs": 1}
    options: dict[str, Any] = {**QUICK, "epochs": 1, "out": tmp_path / "called"}
    for _ in range(2):  # the second call finds all stages done
        run, stages = fastclr.v2(pictures, finetune=short, distill={"epochs": 1}, **options)
    assert [stage.result["name"] for stage in stages] == ["finetune-50pct", "distill-50pct-self"]
    assert run.results["finetune-50pct"]["test_images_seen"] is False and run.config.head_layers == 3
    assert capsys.readouterr().err.count("is there already") == 2
    flags = "--width 0.125 --epochs 1 --batch-size 32 --lr 0.1 --knn-every 1 --log-every 2 --device cpu --deterministic"
    flags += " --temperature 0.2 --size 32 --gray-p 0.1 --finetune.share 50% --finetune.epochs 1 --distill.epochs 1"
    command = ["v2", "--data", str(pictures), "--out", str(tmp_path / "typed"), *flags.split()]
    assert main(command) == 0
    for name in ("encoder.safetensors", "finetune-50pct/model.safetensors", "distill-50pct-self/model.safetensors"):
        assert (tmp_path / "typed" / name).read_bytes() == (tmp_path / "called" / name).read_bytes()
    assert main([*command, "--finetune.labels", "1%"]) == 2
    assert "--finetune.labels is no option: the share of the labels is --finetune.share" in capsys.readouterr().err
    with pytest.raises(TypeError, match="no option 'shares'; did you mean 'share'"):
        fastclr.v2(pictures, finetune={"shares": "50%"}, out=tmp_path / "no")  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="cannot start from random weights"):
        fastclr.v2(pictures, encoder=Maps(), out=tmp_path / "no", epochs=1, batch_size=64)


def test_how_to_go_on_is_said_for_what_no_command_can_name() -> None:
    folder = Path("runs/mine")
    assert how_to_go_on(PretrainConfig(data="photos"), folder) == "fastclr pretrain --resume runs/mine"
    own = PretrainConfig(data="<builtins.list>", encoder="<nets.Mine>", given=torch.nn.Identity())
    assert how_to_go_on(own, folder) == "fastclr.Run('runs/mine', encoder=..., data=...).resume()"


def test_a_collapse_is_told_at_the_end(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastclr.training.health.COLLAPSED", 9.0)
    monkeypatch.setattr("fastclr.training.health.PATIENCE", 2)
    fastclr.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "epochs": 1, "knn_every": 0})
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("warning: the embeddings have collapsed")
