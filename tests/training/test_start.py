"""Runs that start from given weights: recorded, resumed without the file, and random where that was asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import fastclr.training.build
from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.methods import METHODS, BLIPOptions, MoCoOptions, SupervisedOptions
from fastclr.methods.encoders import build_encoder
from fastclr.methods.model import build_model
from fastclr.methods.start import start
from fastclr.parallel import World
from fastclr.training.build import build, check_model
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.method_presets import with_method
from fastclr.training.run import Run
from fastclr.transfer.model_card import model_card


@pytest.fixture
def weights(tiny: PretrainConfig, tmp_path: Path) -> Path:
    """Random weights of the encoder of `tiny`, other than those of its seed."""
    torch.manual_seed(99)
    encoder = build_encoder(tiny.encoder, width=tiny.width, size=32)
    torch.save({"state_dict": {f"backbone.{n}": t for n, t in encoder.state_dict().items()}}, tmp_path / "start.pth")
    return tmp_path / "start.pth"


def test_a_run_starts_from_a_file_and_goes_on_without_it(
    tiny: PretrainConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights before the first step are those of the file; a stopped run ends as one that was not."""
    config = dataclasses.replace(tiny, init=str(weights), epochs=2, checkpoint_every=3, keep_checkpoints=9)
    training = build(config)
    stored = torch.load(weights, weights_only=True)["state_dict"]
    for name, tensor in training.method.encoder.state_dict().items():
        assert torch.equal(tensor, stored[f"backbone.{name}"]), name
    plain = build(dataclasses.replace(config, init=None)).method.state_dict()
    for name, tensor in training.method.state_dict().items():  # the head is what it is without the file
        assert name.startswith("encoder.") or torch.equal(tensor, plain[name])
    assert not torch.equal(plain["encoder.conv1.weight"], stored["backbone.conv1.weight"])

    whole = pretrain_in(tmp_path / "whole", config, progress=False).run
    said = capsys.readouterr().err
    assert "starting weights: " in said and "matched, found under state_dict.backbone" in said
    assert said.index("starting weights") < said.index("reading the images")
    shutil.copytree(whole.folder, tmp_path / "stopped")
    for checkpoint in sorted((tmp_path / "stopped" / "checkpoints").glob("*.pt"))[1:]:
        checkpoint.unlink()
    weights.unlink()
    run = Run.open(tmp_path / "stopped")
    assert run.config.init == str(weights) and not run.config.fresh
    pretrain_in(run.folder, run.config, resume=True, progress=False)
    for name, tensor in load_file(whole.folder / "encoder.safetensors").items():
        assert torch.equal(tensor, load_file(run.folder / "encoder.safetensors")[name]), name
    run.load_model()
    # a network from random weights, as for `finetune --from-scratch`, takes nothing of the file
    torch.manual_seed(tiny.seed)
    assert torch.equal(build_model(run.config).encoder.conv1.weight, plain["encoder.conv1.weight"])  # type: ignore[arg-type]
    inputs = {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": None, "interpolation": "", "colours": "RGB"}
    card = model_card(run, "safetensors", None, inputs, None)
    assert "## Starting weights\n\n`start.pth`" in card and str(tmp_path) not in card


def test_a_run_starts_from_another(tiny: PretrainConfig, tmp_path: Path) -> None:
    first = pretrain_in(tmp_path / "first", dataclasses.replace(tiny, epochs=1), progress=False).run
    state = load_file(first.folder / "encoder.safetensors")
    checkpoint = next(first.checkpoints.glob("*.pt"))
    for place in (first.folder, checkpoint, first.folder / "encoder.safetensors"):
        training = build(dataclasses.replace(tiny, init=str(place)))
        assert all(torch.equal(t, state[n]) for n, t in training.method.encoder.state_dict().items())


@pytest.mark.filterwarnings("ignore:batch norm can leak")
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.uses_texts])
def test_every_method_starts_from_the_file(method: str, tiny: PretrainConfig, weights: Path) -> None:
    """And so does the momentum twin of those that have one."""
    options = {"method": method, "options": PretrainConfig(method=method).options}
    training = build(dataclasses.replace(tiny, init=str(weights), **options))  # type: ignore[arg-type]
    stored = torch.load(weights, weights_only=True)["state_dict"]
    own = training.method.state_dict()
    places = [name for name in own if name.endswith("conv1.weight") and "layer" not in name]
    assert "encoder.conv1.weight" in places and len(places) == (
        2 if method in ("moco-v1", "moco-v2", "moco-v3", "byol", "dino") else 1
    )
    for place in places:
        for name, tensor in stored.items():
            assert torch.equal(own[place.replace("conv1.weight", name.removeprefix("backbone."))], tensor), (
                place,
                name,
            )


def test_what_is_wrong_is_said_before_any_image_is_read(tiny: PretrainConfig, weights: Path, tmp_path: Path) -> None:
    """The folder of the images is empty, which would be said next."""
    (tmp_path / "empty").mkdir()
    nowhere = dataclasses.replace(tiny, data=str(tmp_path / "empty"))
    cases: list[tuple[dict[str, object], str]] = [
        ({"encoder": "resnet18.tv_in1k"}, r"resnet18\.tv_in1k names weights .* --pretrained .* --encoder resnet18 "),
        ({"encoder": "resnet18.tv_in1k", "init": str(weights)}, "--encoder resnet18 to start from other weights"),
        ({"init": str(weights), "width": 0.25}, r"no weight of .*start\.pth fits the encoder"),
        ({"init": str(tmp_path / "no.pth")}, r"no file or folder .*no\.pth"),
        ({"encoder": "simclr_skresnet50", "pretrained": True}, "timm has no weights for 'simclr_skresnet50'"),
        ({"init": str(weights), "init_prefix": "teacher"}, "nothing under 'teacher', but state_dict"),
    ]
    for options, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            pretrain_in(tmp_path / "run", dataclasses.replace(nowhere, **options), progress=False)  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()
    bad: list[dict[str, object]] = [
        {"init": "x", "pretrained": True},
        {"init_partial": True},
        {"init_prefix": "a"},
        {"init": ""},
    ]
    for options in bad:
        with pytest.raises(ValueError, match="must be"):
            dataclasses.replace(tiny, **options)  # type: ignore[arg-type]


WRONG: list[tuple[str, dict[str, object], str]] = [
    ("moco-v2", {"batch_size": 100}, "queue must be a multiple of the 100 keys of a step"),
    ("moco-v2", {"options": MoCoOptions(queue=64, bn_splits=3)}, "bn_splits must divide the 32 images"),
    ("byol", {"head": "none"}, "BYOL needs a projection head"),
    ("jigsaw", {"augment": AugmentConfig.cifar(8)}, "needs views of at least 12 px, for cells of 4 px, got 8"),
    ("blip-itc", {"options": BLIPOptions(queue=100)}, "queue must be a multiple of the 32 keys of a step"),
    ("clip", {"head": "none"}, "CLIP needs a projection head"),
    ("supervised", {"options": SupervisedOptions(layer=3)}, "from_layer must be from 0"),
]


@pytest.mark.parametrize(("method", "options", "message"), WRONG)
def test_what_does_not_suit_the_method_is_said_before_any_image_is_read(
    method: str,
    options: dict[str, object],
    message: str,
    tiny: PretrainConfig,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*arguments: object, **options: object) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr(fastclr.training.build, "load_splits", read)
    config = with_method(dataclasses.replace(tiny, data=str(pictures)), method, **options)
    with pytest.raises(ValueError, match=message):
        pretrain_in(tmp_path / "run", config, progress=False)
    assert not (tmp_path / "run").exists()
    right = with_method(dataclasses.replace(tiny, data=str(pictures), batch_size=32), method, head="mlp")
    with pytest.raises(AssertionError, match="the images were read"):
        pretrain_in(tmp_path / "run", right, progress=False)


def test_what_does_not_suit_the_processes_is_said_before_any_image_is_read(tiny: PretrainConfig) -> None:
    group: Any = object()
    world = World(0, 4, torch.device("cpu"), group)
    moco = with_method(tiny, "moco-v2", options=MoCoOptions(queue=64, bn_splits=16))
    for config, message in (
        (dataclasses.replace(tiny, batch_size=30), "batch_size .* got 30 for 4 processes"),
        (dataclasses.replace(tiny, sync_bn_group=3), "sync_bn_group must divide the 4 processes, got 3"),
        (dataclasses.replace(tiny, width=1.0, encoder="efficientnet_b0"), "plain batch norms, got BatchNormAct2d"),
        (moco, "bn_splits must divide the 8 images"),
    ):
        with pytest.raises(ValueError, match=message):
            check_model(config, world)
    check_model(dataclasses.replace(tiny, sync_bn_group=2), world)


@pytest.mark.parametrize("method", METHODS)
def test_the_trial_draws_no_number_and_warns_of_nothing(method: str, tiny: PretrainConfig) -> None:
    if METHODS[method].uses_texts:
        pytest.importorskip("tokenizers")
        pytest.importorskip("transformers")
    before = torch.get_rng_state()
    config = with_method(dataclasses.replace(tiny, width=0.125), method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_model(dataclasses.replace(config, batch_size=64), World(0, 1, torch.device("cpu"), None))
    assert torch.equal(torch.get_rng_state(), before)


def hub(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Random weights of a model of timm, where huggingface_hub keeps what it has fetched."""
    import huggingface_hub

    kept = folder / f"models--timm--{name}"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    torch.manual_seed(5)
    state = timm.create_model(name.partition(".")[0]).state_dict()
    save_file(state, kept / "snapshots" / "abc" / "model.safetensors")
    for module in (huggingface_hub.constants, sys.modules["huggingface_hub.file_download"]):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(folder), raising=False)
    return state


def test_weights_of_timm(tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were fetched before need no network; for others the error says what permits it."""
    state = hub(tmp_path, "resnet10t.c3_in1k", monkeypatch)
    config = dataclasses.replace(tiny, encoder="resnet10t.c3_in1k", width=1.0, stem="imagenet", pretrained=True)
    training = build(config)
    for name, tensor in training.method.encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    torch.manual_seed(0)
    encoder = build_encoder("resnet10t", size=32, stem="imagenet")
    lines = start(encoder, dataclasses.replace(config, encoder="resnet10t"))
    assert lines[0] == "starting weights: timm's resnet10t.c3_in1k"
    with pytest.raises(
        FileNotFoundError, match=r"timm's resnet18\.tv_in1k are not on this machine: --download fetches"
    ):
        start(encoder, dataclasses.replace(config, encoder="resnet18.tv_in1k"))


def test_download_is_asked_for(tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --download the file is fetched; an error of the network is one line."""
    import huggingface_hub

    config = dataclasses.replace(tiny, encoder="resnet14t", width=1.0, pretrained=True, init_partial=True)
    encoder = build_encoder("resnet14t", size=32)
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        if len(asked) == 1:
            raise RuntimeError("no route to host\nand more")
        save_file(timm.create_model("resnet14t").state_dict(), tmp_path / "model.safetensors")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(
        OSError, match=r"could not be fetched from huggingface\.co/timm/resnet14t\.c3_in1k: no route to host$"
    ):
        start(encoder, config, download=True)
    start(encoder, config, download=True)
    assert asked == [("timm/resnet14t.c3_in1k", "model.safetensors")] * 2


def test_the_command_line(pictures: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "pretrain",
        "--data",
        str(pictures),
        "--width",
        "0.125",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--amp",
        "off",
    ]
    assert main([*command, "--init", str(weights), "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"] == str(weights)
    assert "fresh" not in json.loads((tmp_path / "run" / "config.json").read_text())
    assert main([*command, "--encoder", "resnet18.tv_in1k", "--out", str(tmp_path / "other")]) == 2
    assert "--pretrained" in capsys.readouterr().err


def test_a_student_named_after_weights_is_refused() -> None:
    from fastclr.transfer.distill import DistillConfig

    run = PretrainConfig(encoder="resnet18")
    with pytest.raises(ValueError, match="names weights of timm's resnet18"):
        DistillConfig(student="resnet18.tv_in1k").student_config(run, run)


def test_an_own_network_starts_from_a_file(pictures: Path, tmp_path: Path) -> None:
    """A module that was given takes weights as those of timm do, also where the file has it in a part."""

    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        layers = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    torch.save({"model": {f"net.{n}": t for n, t in network(7).state_dict().items()}}, tmp_path / "own.pth")
    options: dict[str, Any] = {"epochs": 1, "batch_size": 64, "device": "cpu", "out": tmp_path / "run", "lr": 1e-9}
    run = fastclr.pretrain(pictures, encoder=network(1), init=tmp_path / "own.pth", **options)
    torch.testing.assert_close(run.encoder.get_parameter("0.weight"), network(7).get_parameter("0.weight"))
    assert run.config.init == str(tmp_path / "own.pth")
