"""`fastclr demo`: a pretraining on the built-in shapes, evaluated against its baselines."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from fastclr.data import Splits
from fastclr.device import resolve_device
from fastclr.evaluate import Features, knn_accuracy, probe_accuracy
from fastclr.methods.model import build_model
from fastclr.report import write_report
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features
from fastclr.training.fit import fit
from fastclr.training.loop import pretrain_in
from fastclr.training.presets import PRESETS
from fastclr.transfer.classifier import build_classifier


def main(arguments: list[str]) -> None:
    """Run the demo."""
    run_demo(tyro.cli(DemoOptions, args=arguments, prog="fastclr demo"))


@dataclass(frozen=True)
class DemoOptions:
    """Pretrain a small ResNet on the built-in shapes and compare it with its baselines."""

    out: Path = Path("runs/demo")
    """Folder of the run; a number is added if it exists."""
    epochs: int = PRESETS["demo"].epochs
    """Passes over the images."""
    device: str = "auto"
    """`auto` (CUDA if there is one), or a torch device."""


def run_demo(options: DemoOptions) -> Path:
    """Pretrain, evaluate against an untrained and a supervised encoder and raw pixels, print a table, draw a report.

    Returns:
        The folder of the run.
    """
    start = time.perf_counter()
    warmup = min(PRESETS["demo"].warmup_epochs, options.epochs / 2)
    config = dataclasses.replace(PRESETS["demo"], epochs=options.epochs, warmup_epochs=warmup, device=options.device)
    run, data, features = pretrain_in(free_folder(options.out), config)
    write_report(run, data, features)
    run.say("evaluating on frozen features")
    torch.manual_seed(config.seed)
    untrained = build_model(config).encoder  # the weights that the pretraining started from
    rows = {
        "raw pixels": run_features(nn.Flatten(), data, config),
        "untrained encoder": run_features(untrained, data, config),
        "SimCLR encoder": run_features(run.load_encoder(), data, config),
        "supervised encoder": run_features(train_supervised(config, data), data, config),
    }
    scores = {name: score(features, config) for name, features in rows.items()}
    run.add_result("demo", scores)
    show(table(scores))
    show(f"\n{run.folder}: {', '.join(sorted(p.name for p in run.folder.iterdir()))}")
    show(f"took {time.perf_counter() - start:.0f} s on {resolve_device(config.device)}")
    return run.folder


def train_supervised(config: PretrainConfig, data: Splits) -> nn.Module:
    """Train the same encoder with labels: same images, epochs, augmentation and optimiser settings; one view."""
    torch.manual_seed(config.seed)
    classifier = build_classifier(build_model(config), 0, len(data.train.classes), config.augment.size)
    fit(classifier, data.train, config, title="supervised")
    return classifier.encoder


def score(features: Features, config: PretrainConfig) -> dict[str, float]:
    """Return kNN and linear accuracy."""
    return {
        "knn": knn_accuracy(features, k=config.knn_k, temperature=config.knn_temperature),
        "linear": probe_accuracy(features),
    }


def table(scores: dict[str, dict[str, float]]) -> str:
    """Lay out accuracies as text."""
    lines = [f"{'accuracy on test images':<26}{'kNN':>8}{'linear':>9}"]
    lines += [f"{name:<26}{100 * s['knn']:7.1f}%{100 * s['linear']:8.1f}%" for name, s in scores.items()]
    return "\n".join(lines)


def free_folder(folder: Path) -> Path:
    """Return `folder`, or the first of `folder`-2, `folder`-3, ... that does not exist."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
