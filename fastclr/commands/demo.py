"""`fastclr demo`: a pretraining on the built-in shapes, evaluated against its baselines."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from fastclr.commands.browser import open_page
from fastclr.data import Splits
from fastclr.device import resolve_device
from fastclr.evaluate import Features, knn_accuracy, probe_accuracy
from fastclr.methods import MethodOptions
from fastclr.methods.model import build_model
from fastclr.report import write_report
from fastclr.sources.printable import show
from fastclr.training.evaluation import run_features
from fastclr.training.loop import pretrain_in
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run
from fastclr.transfer.classifier import train_classifier

SUPERVISED_SHARE = 2  # labels teach the shapes sooner: 1 epoch for so many of the pretraining


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
    open: bool = True
    """Open the report in a browser, on a desktop."""


def run_demo(options: DemoOptions) -> Path:
    """Pretrain, evaluate against an untrained and a supervised encoder and raw pixels, print a table, draw a report.

    Returns:
        The folder of the run.
    """
    start = time.perf_counter()
    warmup = min(PRESETS["demo"].warmup_epochs, options.epochs / 2)
    config = dataclasses.replace(PRESETS["demo"], epochs=options.epochs, warmup_epochs=warmup, device=options.device)
    run, data, features = pretrain_in(free_folder(options.out), config)
    torch.manual_seed(config.seed)
    untrained = build_model(config).encoder  # the weights that the pretraining started from
    supervised_epochs = -(-options.epochs // SUPERVISED_SHARE)
    run.say(f"the same encoder with labels, {supervised_epochs} epochs")
    supervised = train_supervised(run, data, supervised_epochs)
    run.say("features of the raw pixels, the untrained and the supervised encoder")
    rows = {
        "raw pixels": run_features(nn.Flatten(), data, config),
        "untrained encoder": run_features(untrained, data, config),
        "SimCLR encoder": features or run_features(run.load_encoder(), data, config),
        "supervised encoder": run_features(supervised, data, config),
    }
    scores = {name: score(run, name, found) for name, found in rows.items()}
    run.add_result("demo", scores)
    page = write_report(run, data, rows["SimCLR encoder"], run.say)
    epochs = {"SimCLR encoder": config.epochs, "supervised encoder": supervised_epochs}
    show(table(scores, epochs))
    show(f"\n{run.folder}: {', '.join(sorted(p.name for p in run.folder.iterdir()))}")
    show(f"took {time.perf_counter() - start:.0f} s on {resolve_device(config.device)}")
    show(f"report: {page}")
    if options.open:
        open_page(page)
    return run.folder


def train_supervised(run: Run, data: Splits, epochs: int) -> nn.Module:
    """Train the same encoder with labels: same images, augmentation and optimiser settings; one view, fewer epochs."""
    config = dataclasses.replace(
        run.config,
        method="supervised",
        options=MethodOptions(),
        epochs=epochs,
        warmup_epochs=min(run.config.warmup_epochs, epochs / 2),
        knn_every=0,
    )
    return train_classifier(run.folder / "supervised", config, data).encoder


def score(run: Run, name: str, features: Features) -> dict[str, float]:
    """Return kNN and linear accuracy."""
    run.say(f"kNN and linear probe: {name}, {features.train.shape[1]} features")
    return {
        "knn": knn_accuracy(features, k=run.config.knn_k, temperature=run.config.knn_temperature),
        "linear": probe_accuracy(features, say=run.say),
    }


def table(scores: dict[str, dict[str, float]], epochs: dict[str, int]) -> str:
    """Lay out accuracies as text, with the epochs of what was trained."""
    lines = [f"{'accuracy on test images':<26}{'epochs':>8}{'kNN':>8}{'linear':>9}"]
    for name, found in scores.items():
        lines.append(f"{name:<26}{epochs.get(name, ''):>8}{100 * found['knn']:7.1f}%{100 * found['linear']:8.1f}%")
    return "\n".join(lines)


def free_folder(folder: Path) -> Path:
    """Return `folder`, or the first of `folder`-2, `folder`-3, ... that does not exist."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
