"""Training on labels, and the classifier on a layer of the projection head."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY
from torch import nn

from fastclr.augment import SimCLRAugment
from fastclr.augment.fixed_view import crop_and_flip
from fastclr.cli import main
from fastclr.data import Batch, ImageDataset, Splits, make_shapes
from fastclr.data.order import permutation
from fastclr.evaluate import state_hash
from fastclr.methods import Facts, Supervised, ViewPlan, parameter_groups
from fastclr.methods.heads import build_head, first_layers
from fastclr.methods.model import EncoderHead, build_model
from fastclr.methods.supervised import Classifier, build_classifier, check_labels
from fastclr.training.config import PretrainConfig
from fastclr.training.optim import build_optimizer
from fastclr.training.run import Run
from fastclr.training.stopping import Interrupted
from fastclr.transfer.classifier import as_supervised, train_classifier

SHAPES = make_shapes(train=40, test=8)


def net() -> Classifier:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(encoder, nn.Sequential(), nn.Linear(6, 8))


CONFIG = dataclasses.replace(
    as_supervised(TINY, 0, 3), data="shapes", batch_size=16, lr=0.2, nesterov=True, weight_decay=1e-3, seed=5
)


def make(config: PretrainConfig, facts: Facts) -> Supervised:
    check_labels(facts)
    return Supervised(net(), ViewPlan(config.augment, 1))


def train(folder: Path, config: PretrainConfig = CONFIG, data: Splits = SHAPES) -> Classifier:
    return train_classifier(folder, config, data, make, progress=False)


def by_hand(model: nn.Module, data: ImageDataset) -> list[float]:
    """SGD with Nesterov momentum and a cosine to zero, written out; two steps per epoch, eight images dropped."""
    augment = SimCLRAugment(CONFIG.augment, views=1, seed=5)
    parameters = list(model.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    means = []
    model.train()
    for epoch in range(3):
        order, losses = permutation(40, 5, epoch), []
        for step in range(2):
            rows = order[16 * step : 16 * (step + 1)]
            view = augment(data.images[rows], data.ids[rows], epoch)[0]
            logits = model(view)
            loss = (logits.exp().sum(1).log() - logits[torch.arange(16), data.labels[rows]]).mean()
            lr = 0.2 * 0.5 * (1 + math.cos(math.pi * (2 * epoch + step) / 6))
            for p, v, g in zip(parameters, velocities, torch.autograd.grad(loss, parameters), strict=True):
                g = g + 1e-3 * p.detach()
                v.mul_(0.9).add_(g)
                p.data -= lr * (g + 0.9 * v)
            losses.append(loss.item())
        means.append(sum(losses) / 2)
    return means


def test_the_loop_is_the_one_written_by_hand(tmp_path: Path) -> None:
    ours, expected = train(tmp_path / "run"), net()
    losses = [r["train/loss"] for r in Run.open(tmp_path / "run").metrics.read()]
    assert losses == pytest.approx(by_hand(expected, SHAPES.train), rel=1e-4)
    for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert not ours.training


def test_twice_is_bit_identical_and_another_seed_is_not(tmp_path: Path) -> None:
    configs = (CONFIG, CONFIG, dataclasses.replace(CONFIG, seed=6))
    hashes = [state_hash(train(tmp_path / str(index), config)) for index, config in enumerate(configs)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_loss_is_that_of_float32_logits_and_is_logged_with_the_accuracy() -> None:
    method = Supervised(net(), ViewPlan(CONFIG.augment, 1))
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]], dtype=torch.bfloat16)
    batch = Batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.arange(2), torch.tensor([0, 2]))
    loss, sums = method.loss((logits,), batch, 0, 1)
    exact = -logits.double().log_softmax(1)[[0, 1], [0, 2]].mean()
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(exact), rel=1e-6)
    assert float(sums["training_accuracy"]) == 0.5


def test_an_unknown_label_never_reaches_cross_entropy(tmp_path: Path) -> None:
    labels = SHAPES.train.labels.clone()
    labels[7] = -1
    data = dataclasses.replace(SHAPES, train=dataclasses.replace(SHAPES.train, labels=labels))
    with pytest.raises(ValueError, match="all images to train on must have labels, but 1 of 40"):
        train(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_a_signal_ends_the_training_between_two_steps_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    steps = itertools.count(1)
    loss = Supervised.loss

    def stopping(self: Supervised, *arguments: Any) -> Any:
        if next(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "loss", stopping)
        with pytest.raises(Interrupted, match="stopped at step 3, epoch 2") as caught:
            train(tmp_path / "parts")
    assert caught.value.number == signal.SIGTERM
    assert state_hash(train(tmp_path / "parts")) == state_hash(whole)


def test_the_baseline_is_a_method_of_the_command_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    small = ["--width", "0.125", "--epochs", "1", "--batch-size", "32", "--device", "cpu", "--supervised.layer", "1"]
    assert main(["pretrain", "--method", "supervised", "--data", str(pictures), "--out", run, *small]) == 0
    record = Run.open(Path(run)).metrics.read()[1]  # after the evaluation before training
    assert 0 <= record["train/training_accuracy"] <= 1
    assert main(["knn", run, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["knn", run, "--device", "cpu", "--features", "z"]) == 2
    assert "a run of method supervised has no projection head" in capsys.readouterr().err


def model_with_head(layers: int, bn: bool = True) -> EncoderHead:
    """A model whose batch norms have non-trivial statistics and affine parameters."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = EncoderHead(encoder, build_head("mlp", 6, 4, layers, 5, bn))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_from_layer_k_is_the_first_k_layers_and_nothing_else(layer: int) -> None:
    model, images = model_with_head(3), torch.randn(7, 3, 8, 8)
    weights = {name: value.clone() for name, value in model.head.state_dict().items()}
    expected = model.encoder(images)
    for k in range(layer):
        part = {name: weights[f"{3 * k + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
        expected = expected @ weights[f"{3 * k}.weight"].T
        expected = (expected - part["running_mean"]) / (part["running_var"] + 1e-5).sqrt() * part["weight"] + part[
            "bias"
        ]
        expected = expected.clamp_min(0) if k < 2 else expected  # no ReLU after the last layer
    classifier = build_classifier(model, layer, classes=3, size=8).eval()
    nn.init.normal_(classifier.linear.weight)
    torch.testing.assert_close(classifier(images), expected @ classifier.linear.weight.T, rtol=1e-4, atol=1e-5)
    count = sum(p.numel() for p in classifier.parameters())
    encoder = sum(p.numel() for p in model.encoder.parameters())
    head = sum(value.numel() for name, value in model.head.named_parameters() if int(name.split(".")[0]) < 3 * layer)
    assert count == encoder + head + 3 * expected.shape[1] + 3


def test_heads_without_batch_norm_and_without_layers() -> None:
    model = model_with_head(2, bn=False)
    assert [type(m) for m in first_layers(model.head, 1)] == [nn.Linear, nn.ReLU]
    assert len(first_layers(nn.Identity(), 0)) == 0
    with pytest.raises(ValueError, match=r"from_layer must be from 0 .* to 2 .*, got 3"):
        first_layers(model.head, 3)
    with pytest.raises(ValueError, match=r"to 0 .*, got 1"):
        first_layers(nn.Identity(), 1)


def test_the_first_prediction_is_uniform() -> None:
    classifier = build_classifier(model_with_head(2), 1, classes=7, size=8)
    assert torch.equal(classifier(torch.randn(5, 3, 8, 8)).softmax(1), torch.full((5, 7), 1 / 7).float())


def test_lars_decays_the_classifier_but_does_not_adapt_it() -> None:
    """With adaptation, a zero classifier would hardly move (head_supervised of google-research/simclr)."""
    config = dataclasses.replace(TINY, optimizer="lars", head_layers=2, weight_decay=0.1)
    method = Supervised(build_classifier(build_model(config), 1, classes=7, size=32), ViewPlan(config.augment, 1))
    optimizer = build_optimizer(config, method.groups(config.optimizer))
    rules = {p: (g["adapt"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rules.keys() == set(method.parameters())
    for name, parameter in method.named_parameters():
        expected = (parameter.ndim > 1, 0.1 if parameter.ndim > 1 else 0.0)
        assert rules[parameter] == ((False, 0.1) if name == "linear.weight" else expected), name


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_no_weight_decay_at_all(optimizer: str) -> None:
    config = dataclasses.replace(TINY, optimizer=optimizer, weight_decay=0.0)
    model = build_model(config)
    groups = build_optimizer(config, parameter_groups(model, config.optimizer)).param_groups
    trained = {p for p in model.parameters() if p.requires_grad}
    assert {p for g in groups for p in g["params"]} >= trained and all(g["weight_decay"] == 0 for g in groups)
    if optimizer == "lars":
        assert {p.ndim > 1 for g in groups if g["adapt"] for p in g["params"]} == {True}


def test_crop_and_flip_leaves_the_colours_alone() -> None:
    images = torch.full((64, 20, 30, 3), 77, dtype=torch.uint8)
    config = dataclasses.replace(TINY.augment, solarize_p=1.0, blur_p=0.5, size=24)
    views = SimCLRAugment(crop_and_flip(config), views=1)(images, torch.arange(64), 0)
    torch.testing.assert_close(views, torch.full_like(views, 77 / 255))
    params = SimCLRAugment(crop_and_flip(config), views=1).params(torch.arange(64), 0, (20, 30))
    assert len(params.crop.unique(dim=1)[0]) > 60 and 16 < int(params.flip.sum()) < 48
