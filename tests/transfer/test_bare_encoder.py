"""Embedding and scoring with an encoder that was trained elsewhere, without a run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from failing_commands import fails
from torch import nn

import fastclr
from fastclr.cli import main
from fastclr.data import load_dataset
from fastclr.methods import start
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.transfer.feature_file import read_features


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network of timm with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made: nn.Module = timm.create_model("resnet10t", num_classes=0)
    return made.eval()


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save({"model": network.state_dict()}, path)
    return path


def expected(network: nn.Module, pictures: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What timm's network makes of the normalised test images, which are seen whole at their 32 px."""
    images = load_dataset(pictures, "test").images.permute(0, 3, 1, 2).float() / 255
    normal = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        features: np.ndarray = network(normal).numpy()
    return features


@pytest.mark.parametrize("extra", [[], ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.3", "0.4"]])
def test_features_are_those_of_the_network_on_the_images_that_it_expects(
    extra: list[str], network: nn.Module, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "f.npz"
    asked = ["--model", "resnet10t", "--initial-checkpoint", str(weights), "--img-size", "32", *extra]
    assert main(["embed", str(pictures), *asked, "--out", str(out), "--split", "test", "--device", "cpu"]) == 0
    cfg: Any = timm.get_pretrained_cfg("resnet10t")
    mean, std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) if extra else (cfg.mean, cfg.std)
    np.testing.assert_allclose(read_features(out).features, expected(network, pictures, mean, std), atol=2e-4)
    assert os.listdir(tmp_path) == ["f.npz"]


def test_published_weights_bring_their_size_and_normalisation(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def found(name: str, *, download: bool) -> tuple[Path, str]:
        asked.append((name, download))
        return weights, "timm's"

    monkeypatch.setattr(start, "timm_weights", found)
    run = fastclr.Run.of_encoder("resnet10t.c3_in1k", pretrained=True, download=True)
    cfg: Any = timm.get_pretrained_cfg("resnet10t.c3_in1k")
    augment = run.config.augment
    assert (augment.size, augment.mean, augment.std) == (cfg.input_size[-1], tuple(cfg.mean), tuple(cfg.std))
    state = run.encoder.state_dict()
    stored = torch.load(weights, weights_only=True)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert asked == [("resnet10t.c3_in1k", True)] and "starting weights: timm's" in capsys.readouterr().err


def test_the_encoder_file_of_a_run_says_what_it_is(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its features and scores are those of the run; nothing is written but the features."""
    pictures = tiny.data
    augment = dataclasses.replace(tiny.augment, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    pretrain_in(tmp_path / "run", dataclasses.replace(tiny, epochs=1, knn_every=0, augment=augment))
    file = (tmp_path / "run" / "encoder.safetensors").rename(tmp_path / "encoder.safetensors")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert main(["embed", pictures, "--init", str(file), "--out", "bare.npz", "--device", "cpu"]) == 0
    assert main(["embed", str(tmp_path / "run"), pictures, "--out", "run.npz", "--device", "cpu"]) == 0
    bare, whole = read_features(Path("bare.npz")), read_features(Path("run.npz"))
    assert np.array_equal(bare.features, whole.features) and bare.settings == whole.settings
    capsys.readouterr()
    for command in (["knn", "--k", "5"], ["probe", "--l2", "0.1"]):
        assert main([*command, "--init", str(file), "--data", pictures, "--device", "cpu"]) == 0
        said = capsys.readouterr().out
        assert main([command[0], str(tmp_path / "run"), *command[1:], "--device", "cpu"]) == 0
        assert capsys.readouterr().out == said
    assert sorted(os.listdir()) == ["bare.npz", "run.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "images"], "embed needs RUN and IMAGES, or --encoder or --init and IMAGES, got images alone"),
        (["embed", "run", "images", "--encoder", "resnet18", "--pretrained"], "--encoder is for an encoder without"),
        (["embed", "images", "--encoder", "resnet18"], "say whose weights"),
        (["embed", "images", "--encoder", "resnet18", "--init", "a.pt", "--pretrained"], "got both"),
        (["embed", "images", "--init", "a.pt"], "no file or folder a.pt"),
        (["embed", "images", "--encoder", "resnte18", "--pretrained"], "similar names: resnet18"),
        (["knn"], "give the folder of a run, or an encoder"),
        (["knn", "--encoder", "resnet18", "--pretrained", "--features", "z", "--data", "shapes"], "has no folder"),
        (["knn", "run", "--init", "a.pt"], "--init is for an encoder without a run"),
        (["probe", "--init", "a.pt"], "no file or folder a.pt"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails(arguments, capsys)
    assert os.listdir() == []


def test_what_needs_a_run_says_so(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fastclr.Run.of_encoder("resnet10t", init=weights, size=32, data="shapes")
    assert repr(run) == "fastclr.Run.of_encoder('resnet10t', ...)"
    for call in (run.finetune, run.export, run.report, run.resume, lambda: run.metrics, lambda: run.results):
        with pytest.raises(ValueError, match="an encoder without a run has no folder"):
            call()
    assert os.listdir() == []
