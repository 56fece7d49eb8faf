from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY

from fastclr.cli import main
from fastclr.data import load_splits
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), epochs=1))
    return folder


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def test_knn_of_the_projection_is_scikit_learns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    assert main(["knn", str(run), "--k", "1", "7", "--temperature", "0", "--features", "z", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    model = Run.open(run).load_model().eval()
    splits = load_splits(Run.open(run).config.data)
    with torch.no_grad():
        z, test = (model(s.images.permute(0, 3, 1, 2) / 255).numpy() for s in (splits.train, splits.test))
    found = results(run)["knn-z"]
    for k in (1, 7):
        oracle = KNeighborsClassifier(k, metric="cosine").fit(z, splits.train.labels.numpy())
        accuracy = oracle.score(test, splits.test.labels.numpy())
        assert found["by_k"][str(k)] == pytest.approx(accuracy, abs=1.01 / 64)  # the operator's floats differ a little
        assert f"{100 * found['by_k'][str(k)]:.2f}%" in out
    assert (found["k"], found["accuracy"], found["temperature"]) == (1, found["by_k"]["1"], None)
    assert (found["features"], found["train_images"], found["test_images"]) == ("z", 128, 64)
    assert found["classes"] == list(splits.train.classes)
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum(dim=1).tolist() == torch.bincount(splits.test.labels).tolist()
    assert float(confusion.diagonal().sum() / 64) == pytest.approx(found["accuracy"])


@pytest.mark.parametrize(
    ("options", "name", "settings"),
    [
        (["--l2", "0.01"], "probe-lbfgs", {"l2": 0.01, "tolerance": 1e-5}),
        (
            ["--protocol", "precomputed", "--epochs", "3", "--seeds", "2"],
            "probe-precomputed",
            {"epochs": 3, "batch_size": 1000, "lr": 0.01, "weight_decay": 5e-6},
        ),
        (
            ["--protocol", "augmented", "--epochs", "2", "--batch-size", "64", "--features", "1"],
            "probe-augmented-1",
            {"epochs": 2, "batch_size": 64, "lr": 0.025, "weight_decay": 0.0},
        ),
    ],
)
def test_every_protocol_stores_what_it_did(
    options: list[str], name: str, settings: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(run), "--device", "cpu", *options]) == 0
    out = capsys.readouterr().out
    found = results(run)[name]
    assert found["settings"] == settings and found["protocol"] == name.split("-")[1]
    assert f"{100 * found['accuracy']:.2f}%" in out and "64 test images" in out
    assert [seed["seed"] for seed in found["seeds"]] == list(range(2 if "--seeds" in options else 1))
    assert found["accuracy"] == pytest.approx(sum(s["accuracy"] for s in found["seeds"]) / len(found["seeds"]))
    assert (found["accuracy_std"] is None) == ("--seeds" not in options)
    assert 0 <= found["accuracy"] <= found["top5"] <= 1 and len(found["per_class"]) == 8
    assert ("last of" in out) == ("--epochs" in options)  # the epoch that is reported has a name


def test_the_model_of_a_run_holds_its_encoder(run: Path) -> None:
    opened = Run.open(run)
    model, encoder = opened.load_model(), opened.load_encoder()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "--features", "9"], "features must be one of h, z, 0, 1, 2"),
        (["probe", "--protocol", "augmented", "--l2", "1"], "--l2 is not an option of --protocol augmented"),
        (["probe", "--batch-size", "5"], "--batch-size is not an option of --protocol lbfgs"),
        (["probe", "--l2", "1", "--seeds", "2"], "with --l2 all seeds give the same result"),
        (["probe", "--l2", "-1"], "l2 must be a positive number"),
        (["probe", "--seeds", "0"], "--seeds must be at least 1"),
        (["probe", "--protocol", "precomputed", "--lr", "0"], "lr must be a positive number"),
        (["knn", "--k", "5", "1000"], "k must be between 1 and the 128 labelled training images"),
        (["knn", "--k", "0"], "k must be at least 1"),
        (["knn", "--temperature", "-1"], "temperature must be at least 0"),
    ],
)
def test_bad_options_are_one_line_and_leave_the_results(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "results.json"
    before = path.read_text() if path.exists() else None
    assert main([arguments[0], str(run), "--device", "cpu", *arguments[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert (path.read_text() if path.exists() else None) == before
