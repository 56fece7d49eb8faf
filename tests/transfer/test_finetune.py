"""Fine-tuning a run on few labels."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TINY

import fastclr.files
import fastclr.transfer.finetune
from fastclr.cli import main
from fastclr.data import Splits
from fastclr.evaluate import state_hash
from fastclr.methods import Facts, Supervised
from fastclr.methods.supervised import Classifier
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run
from fastclr.training.stopping import Interrupted
from fastclr.transfer.classifier import Trained, check_free
from fastclr.transfer.finetune import FinetuneConfig, finetune, summarise_seeds, training_config

SHORT = FinetuneConfig(share="25%", epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), head_layers=3, epochs=1))
    return folder


@pytest.fixture
def run(pretrained: Path, tmp_path: Path) -> Run:
    """A writable copy of a run."""
    return Run.open(Path(shutil.copytree(pretrained, tmp_path / "run")))


def test_it_stores_a_network_that_gives_the_stored_accuracy(run: Run) -> None:
    data = load_data(run.config)
    before = state_hash(run.load_model())
    stored = finetune(run, data, dataclasses.replace(SHORT, seeds=2))
    again = Trained.load(run.folder / "finetune-25pct")
    assert state_hash(again.model) == state_hash(stored.model) and again.classes == data.train.classes
    assert sorted(p.name for p in (run.folder / "finetune-25pct").iterdir()) == [
        "finetune.json",
        "model.safetensors",
        "seed-0",
        "seed-1",
    ]

    result = json.loads((run.folder / "results.json").read_text())["finetune-25pct"]
    first, second = result["accuracies"]
    assert result["accuracy"] == pytest.approx((first + second) / 2)
    assert result["std"] == pytest.approx(abs(first - second) / 2**0.5)
    assert (result["seeds"], result["n_labels"], result["test_images"]) == ([0, 1], 32, 64)
    assert data.test is not None
    images = data.test.images.permute(0, 3, 1, 2).float() / 255  # small images are seen whole
    with torch.no_grad():
        predicted = again.model.eval()(images).argmax(1)
    assert (predicted == data.test.labels).double().mean() == pytest.approx(first, abs=1.5 / 64)
    assert state_hash(run.load_model()) == before, "the run's own checkpoint is left alone"


@pytest.mark.parametrize(("scratch", "layer"), [(False, 2), (False, 0), (True, 1)])
def test_what_it_starts_from(run: Run, scratch: bool, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of the run, or fresh ones from the seed; the images are a quarter of each class."""
    data, seen = load_data(run.config), {}

    def spy(folder: Path, config: PretrainConfig, data: Splits, make: Any) -> Classifier:
        facts = Facts(images=len(data.train), labelled=len(data.train), classes=8, world_size=1)
        torch.manual_seed(config.seed)
        classifier = make(config, facts).classifier
        seen.update(state={k: v.clone() for k, v in classifier.state_dict().items()}, images=data.train, config=config)
        return classifier.eval()

    monkeypatch.setattr(fastclr.transfer.finetune, "train_classifier", spy)
    stored = finetune(run, data, dataclasses.replace(SHORT, from_layer=layer, from_scratch=scratch))
    pretrained = run.load_model().state_dict()
    same = [torch.equal(value, pretrained[name]) for name, value in seen["state"].items() if name.startswith("encoder")]
    assert not all(same) if scratch else all(same)
    kept = {name for name in seen["state"] if name.startswith("layers")}
    head = [name for name in pretrained if name.startswith("head")]
    assert kept == {name.replace("head", "layers") for name in head if int(name.split(".")[1]) < 3 * layer}
    assert stored.layer == layer and stored.result["name"] == ("scratch-25pct" if scratch else "finetune-25pct")
    assert torch.bincount(seen["images"].labels).tolist() == [4] * 8
    augment = seen["config"].augment
    assert (augment.jitter_p, augment.gray_p, augment.blur_p) == (0, 0, 0) and augment.flip_p == 0.5


def test_settings_of_the_papers() -> None:
    resnet = dataclasses.replace(PRESETS["simclr-v2"], data="shapes")
    v1 = training_config(resnet, FinetuneConfig(batch_size=4096), 12811, 0.01, 0, 1)
    assert (v1.optimizer, v1.nesterov, v1.momentum, v1.lr * v1.batch_size / 256) == (
        "sgd",
        True,
        0.9,
        pytest.approx(0.8),
    )
    assert (v1.lr_scaling, v1.weight_decay, v1.warmup_epochs, v1.warmup_share) == ("linear", 0, 0, None)
    v2 = training_config(resnet, FinetuneConfig(recipe="v2"), 128116, 0.1, 0, 1)
    assert (v2.optimizer, v2.nesterov, v2.batch_size, v2.epochs) == ("lars", False, 1024, 30)
    assert v2.lr * v2.batch_size**0.5 == pytest.approx(0.16) and v2.lr_scaling == "sqrt" and v2.weight_decay == 0
    assert training_config(resnet, FinetuneConfig(), 12811, 0.01, 0, 1).epochs == 60
    few = training_config(resnet, FinetuneConfig(recipe="v2"), 40, 0.01, 0, 1)
    assert (few.batch_size, few.epochs) == (40, 1000)  # a step an epoch: as many as need be
    assert training_config(resnet, FinetuneConfig(epochs=3, lr=0.5), 40, 0.01, 0, 1).epochs == 3


def test_nothing_of_the_pretrainings_schedule_or_loggers_is_left() -> None:
    """Of DINO's the decay grows to 0.4 times the weights."""
    pretrained = dataclasses.replace(PRESETS["imagenet-dino"], data="x", mlflow="there", wandb="there")
    assert pretrained.weight_decay_end == 0.4
    for recipe in ("v1", "v2"):
        config = training_config(pretrained, FinetuneConfig(recipe=recipe), 1000, 0.1, 0, 0)
        assert (config.weight_decay, config.weight_decay_end) == (0.0, None)
        assert config.mlflow is None and config.wandb is None and not config.tensorboard


def test_default_layer() -> None:
    assert [FinetuneConfig(share=labels).layer(3) for labels in ("1%", "100%", "list.txt")] == [1, 0, 1]
    assert [FinetuneConfig(share="1%").layer(depth) for depth in (0, 1, 2)] == [0, 0, 1]
    assert FinetuneConfig(share="100%", from_layer=2).layer(3) == 2


def test_summary_of_one_seed_has_no_deviation() -> None:
    one = {"seed": 0, "accuracy": 0.5, "top5": None, "n_labels": 3, "test_images": 2, "epochs": 1, "batch_size": 2}
    assert summarise_seeds([one]) | {"std": None, "top5": None, "accuracy": 0.5} == summarise_seeds([one])


def test_a_result_is_replaced_only_on_demand_and_nothing_else_ever(run: Run) -> None:
    data, folder = load_data(run.config), run.folder / "finetune-25pct"
    first = finetune(run, data, SHORT)
    with pytest.raises(FileExistsError, match=r"already exists.*--overwrite"):
        finetune(run, data, SHORT)
    finetune(run, data, dataclasses.replace(SHORT, seed=1), overwrite=True)
    assert state_hash(Trained.load(folder).model) != state_hash(first.model)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a trained classifier"):
        check_free(folder, overwrite=True)


def stopped(run: Run, data: Splits, config: FinetuneConfig, step: int, *, overwrite: bool) -> None:
    """Fine-tune until a step."""
    steps, loss = itertools.count(1), Supervised.loss

    def stopping(self: Supervised, *arguments: Any) -> Any:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Supervised, "loss", stopping)
        finetune(run, data, config, overwrite=overwrite)


def test_stopped_it_goes_on_to_the_same_network(run: Run, tmp_path: Path) -> None:
    """Stopped in the second of two seeds; the same call then skips the first and ends bit for bit as a whole one."""
    data, config = load_data(run.config), dataclasses.replace(SHORT, seeds=2)
    whole = finetune(Run.open(Path(shutil.copytree(run.folder, tmp_path / "whole"))), data, config)
    stopped(run, data, config, 7, overwrite=False)  # of 2 x 4
    folder = run.folder / "finetune-25pct"
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0", "seed-1", "settings.json"]
    assert not (run.folder / "results.json").exists()
    for change in ({"lr": 0.7}, {"from_scratch": True}, {"seed": 1}):
        with pytest.raises(ValueError, match=rf"other settings \({next(iter(change))}: .* now\): repeat them"):
            finetune(run, data, dataclasses.replace(config, **change), name="finetune-25pct")
    again = finetune(run, data, config)
    assert again.result == whole.result and state_hash(again.model) == state_hash(whole.model)
    assert sorted(path.name for path in (folder / "seed-1").iterdir()) == [
        "config.json",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "train.log",
    ]


def test_what_was_stopped_is_replaced_too_and_the_finished_network_stays_meanwhile(run: Run, tmp_path: Path) -> None:
    data, other = load_data(run.config), dataclasses.replace(SHORT, lr=0.7)
    whole = finetune(Run.open(Path(shutil.copytree(run.folder, tmp_path / "whole"))), data, other)
    stopped(run, data, SHORT, 3, overwrite=False)
    assert state_hash(finetune(run, data, other, overwrite=True).model) == state_hash(whole.model)
    first = (run.folder / "finetune-25pct" / "model.safetensors").read_bytes()
    stopped(run, data, SHORT, 3, overwrite=True)
    assert (run.folder / "finetune-25pct" / "model.safetensors").read_bytes() == first
    assert Trained.load(run.folder / "finetune-25pct").settings["lr"] == 0.7
    third = finetune(run, data, dataclasses.replace(SHORT, lr=0.3), overwrite=True)
    assert third.settings["lr"] == 0.3 and not (run.folder / "finetune-25pct" / "settings.json").exists()
    images = data.train.images.clone()
    images[:] = 255 - images
    stopped(run, data, SHORT, 3, overwrite=True)
    negatives = dataclasses.replace(data, train=dataclasses.replace(data.train, images=images))
    finetune(run, negatives, SHORT, overwrite=True)  # other images are other settings


@pytest.mark.parametrize("refused", [0, 1])  # the description or the weights
def test_a_full_disk_leaves_the_finished_network(refused: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.folder / "finetune-25pct"
    first = finetune(run, load_data(run.config), SHORT)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    synced, fsync = itertools.count(), os.fsync

    def full(descriptor: int) -> None:
        if next(synced) == refused:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"could not write [^:]*: .*No space"):
        patch.setattr(fastclr.files.os, "fsync", full)
        first.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert state_hash(Trained.load(folder).model) == state_hash(first.model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"from_layer": 4}, "from_layer must be from 0 .* to 3"),
        ({"share": "missing.txt"}, "share must be a share of each class such as 1%, or a file"),
    ],
)
def test_refused_before_anything_is_written(run: Run, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(run, load_data(run.config), dataclasses.replace(SHORT, **change))
    assert not (run.folder / "results.json").exists()


def test_data_without_labels_are_refused(run: Run) -> None:
    data = load_data(run.config)
    with pytest.raises(ValueError, match="no labelled test images"):
        finetune(run, Splits(data.train, None), SHORT)
    unknown = dataclasses.replace(data.train, labels=torch.full_like(data.train.labels, -1))
    with pytest.raises(ValueError, match="labels must be known for some images"):
        finetune(run, Splits(unknown, data.test), SHORT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": "0%"}, "share must be above 0%"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"lr": -1.0}, "lr must be a positive number"),
        ({"recipe": "v3"}, "recipe must be one of"),
        ({"from_layer": -1}, "from_layer must be at least 0"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**change)


def test_a_damaged_folder_is_named(run: Run) -> None:
    folder = run.folder / "finetune-25pct"
    finetune(run, load_data(run.config), SHORT)
    about = json.loads((folder / "finetune.json").read_text())
    (folder / "finetune.json").write_text(json.dumps({**about, "layer": 0}))
    with pytest.raises(ValueError, match=r"model.safetensors does not match finetune.json"):
        Trained.load(folder)
    for change, message in (
        ({"classes": 5}, "classes in .*finetune.json must be"),
        ({"config": {"encoder": 5}}, "encoder in the configuration must be str"),
        ({"layer": -1}, "from_layer must be from 0"),
    ):
        (folder / "finetune.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=message):
            Trained.load(folder)
    (folder / "finetune.json").write_text(json.dumps(about))
    weights = load_file(folder / "model.safetensors")
    weights["linear.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"linear.bias in .*model.safetensors must be finite"):
        Trained.load(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        Trained.load(folder)
    (folder / "finetune.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(ValueError, match="must have format 1, got 99"):
        Trained.load(folder)
    (folder / "finetune.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no finetune\.json or distill\.json"):
        Trained.load(folder)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["finetune", str(run.folder), "--share", "25%", "--epochs", "1", "--batch-size", "16"]
    arguments += ["--device", "cpu"]
    assert main([*arguments, "--recipe", "v2", "--from-layer", "2"]) == 0
    accuracy = json.loads((run.folder / "results.json").read_text())["finetune-25pct"]["accuracy"]
    assert f"fine-tuned from layer 2: {100 * accuracy:.2f}%" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*arguments, "--name", "../elsewhere"]) == 2
    assert main([*arguments, "--name", "other", "--from-scratch"]) == 0
    assert (run.folder / "other" / "finetune.json").exists()
