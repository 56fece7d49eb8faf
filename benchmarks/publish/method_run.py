"""One training of the table of methods: a method, a factor on its rate and a seed, from images to a file of scores.

The training is one process with one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastclr.augment import AugmentConfig
from fastclr.bench import machine
from fastclr.data import ImageDataset, Splits, load_splits
from fastclr.data.label_subsets import label_subset
from fastclr.device import peak_memory
from fastclr.evaluate import Features, knn_accuracy, lbfgs_probe
from fastclr.files import write_atomically, write_text_atomically
from fastclr.methods import METHODS, CPCOptions, PIRLOptions
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features
from fastclr.training.health import find_collapse
from fastclr.training.loop import train_in
from fastclr.training.method_presets import with_method
from fastclr.training.optim import peak_lr
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run
from fastclr.transfer.export import file_metadata, preprocessing, serialise

FACTORS = (1.0, 0.3, 3.0)  # of the rate of the method's preset
TUNING_SEED, SEEDS = 0, (1, 2)
UNTRAINED = "untrained"
ENCODERS = "encoders"  # the folder for those of the first reported seed
IMAGES = 10_000
# alike for all methods; everything else is that of the preset for CIFAR-10, or of the method's recipe, but for OWN
SHARED: dict[str, Any] = {
    "width": 0.25,
    "stem": "imagenet",  # a sixteenth of the work of the 3x3 stem
    "augment": AugmentConfig.cifar(32),
    "epochs": 40,
    "batch_size": 256,
    "warmup_epochs": 2.0,
    "warmup_share": None,
    "knn_k": 20,
    "knn_temperature": 0.1,
    "knn_every": 0,
    "device": "cpu",
    "amp": "off",
    "loader": "resident",
}
# CPC compares every patch with all patches of the batch: with the preset's 49 of 8 px, a training takes three hours.
# PIRL's noise-contrastive estimation follows the bank as it fills for longer than 40 epochs: it stays at the untrained
# network's kNN. The steps of the presets of BYOL and MoCo v2 are made for hundreds of epochs
OWN: dict[str, dict[str, Any]] = {
    "cpc": {"options": CPCOptions(grid=3, steps=1)},
    "pirl": {"options": PIRLOptions(loss="info-nce", negatives=8192, grid=2)},
    **{name: {each: METHODS[name].recipe[each] for each in ("lr", "weight_decay")} for name in ("byol", "moco-v2")},
}
TOY: dict[str, Any] = {"width": 0.125, "epochs": 2, "batch_size": 32, "warmup_epochs": 0.0}
TOY_IMAGES = 64


@dataclass(frozen=True)
class Planned:
    """A training.

    Args:
        method: its name; `UNTRAINED` is the network as it starts.
        factor: of the rate of its preset.
        seed: `TUNING_SEED` chooses the rate, on images to choose by; the `SEEDS` are scored on the test images.
    """

    method: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.method}-x{self.factor:g}-seed{self.seed}"

    @property
    def said(self) -> str:
        """How it is called in progress."""
        rate = "" if self.method == UNTRAINED else f", {self.factor:g} times the rate"
        return f"{self.method}{rate}, seed {self.seed}"

    @property
    def tunes(self) -> bool:
        """Whether it chooses the rate."""
        return self.seed == TUNING_SEED

    def config(self, rehearse: bool) -> PretrainConfig:
        """Return its configuration, but for the place of the images."""
        method = "simclr" if self.method == UNTRAINED else self.method
        preset = PRESETS.get("cifar10" if method == "simclr" else f"cifar10-{method}")
        base = with_method(PRESETS["cifar10"], method) if preset is None else preset
        changes = SHARED | OWN.get(self.method, {}) | (TOY if rehearse else {})
        config = dataclasses.replace(base, **changes, seed=self.seed)
        return dataclasses.replace(config, lr=config.lr * self.factor)


@dataclass(frozen=True)
class Images:
    """The images to train on, as many others to choose rates by, and the test images."""

    train: ImageDataset
    chosen_by: ImageDataset
    test: ImageDataset

    @staticmethod
    def load(data: str, work: Path, count: int) -> Images:
        """Read the images, or the copy that the first reading left in `work`.

        Raises:
            ValueError: there are fewer than twice `count` training images, or no test images.
        """
        splits = load_splits(data, loader="resident", workers=1, cache=work / "images")
        train, test = splits.train, splits.test
        if not isinstance(train, ImageDataset) or not isinstance(test, ImageDataset) or splits.held_out:
            raise ValueError(f"{data} must have training and test images with labels")
        if len(train) < 2 * count:
            raise ValueError(f"{data} must have at least {2 * count} training images, got {len(train)}")
        rows, twice = (label_subset(train.labels, factor * count / len(train), 0) for factor in (1, 2))
        rest = twice[~torch.isin(twice, rows)]  # a smaller share is part of a larger one
        return Images(train.select(rows), train.select(rest), test)


def measure(planned: Planned, images: Images, rehearse: bool, work: Path) -> dict[str, Any]:
    """Train and score, and return what the table is made of.

    A rate at which the loss breaks, or a configuration that the method refuses, are results too.
    """
    config = planned.config(rehearse)
    found = {
        **dataclasses.asdict(planned),
        "config": config.as_dict(),
        "lr": peak_lr(config),
        "images": {part.name: getattr(images, part.name).fingerprint for part in dataclasses.fields(images)},
        "train_images": len(images.train),
        "commit": machine.commit(),
        "rehearsal": rehearse,
    }
    begin = time.monotonic()
    if planned.method == UNTRAINED:
        torch.manual_seed(planned.seed)
        found |= scores(build_model(config).encoder, planned, images, config)
    else:
        try:
            found |= trained(planned, images, config, work)
        except FloatingPointError as error:
            found |= {"status": "diverged", "note": str(error).splitlines()[0]}
        except ValueError as error:
            found |= {"status": "refused", "note": str(error)}
    return {**found, "wall_s": time.monotonic() - begin}


def trained(planned: Planned, images: Images, config: PretrainConfig, work: Path) -> dict[str, Any]:
    """Train, and return memory and scores."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        splits = Splits(images.train, None)  # without test images nothing is evaluated during the training
        config = dataclasses.replace(config, checkpoint_epochs=config.epochs)
        ended = train_in(Path(folder) / "run", config, progress=False, data=splits)
        peak, method, records = peak_memory(torch.device("cpu")), ended.training.method, ended.run.metrics.read()
        if planned.seed == SEEDS[0]:
            keep(method.encoder, ended.run, work.parent / ENCODERS / f"{planned.name}.safetensors")
    about = {
        "peak_bytes": peak,
        "views": method.views.count,
        "images_drawn": ended.training.step * config.batch_size,
        "collapsed": find_collapse(records, method.cause) is not None,
    }
    return about | scores(method.encoder, planned, images, config)


def keep(encoder: torch.nn.Module, run: Run, path: Path) -> None:
    """Write the encoder as `fastclr export` does, so that ``fastclr.Run.of_encoder(init=path)`` loads it."""
    inputs = preprocessing(run.config.augment, run.config.range)
    path.parent.mkdir(exist_ok=True)
    contents = serialise(encoder, "safetensors", run.config.augment.size, file_metadata(run, inputs, None))
    write_atomically(path, lambda file: file.write(contents))


def scores(encoder: torch.nn.Module, planned: Planned, images: Images, config: PretrainConfig) -> dict[str, Any]:
    """Return kNN and linear accuracy of frozen features; the tuning seed never sees the test images."""
    held = images.chosen_by if planned.tunes else images.test
    features: Features = run_features(encoder, Splits(images.train, held), config)
    return {
        "status": "ok",
        "scored_on": "images to choose by" if planned.tunes else "test images",
        "scored_images": len(held),
        "knn": knn_accuracy(features, k=config.knn_k, temperature=config.knn_temperature),
        "linear": lbfgs_probe(features, seed=planned.seed).scores.top1,
    }


def main(arguments: list[str]) -> int:
    """Train once, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=[UNTRAINED, *METHODS])
    parser.add_argument("factor", type=float)
    parser.add_argument("seed", type=int)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    planned = Planned(options.method, options.factor, options.seed)
    images = Images.load(options.data, options.work, options.images)
    found = measure(planned, images, options.rehearse, options.work)
    write_text_atomically(options.out, json.dumps(found, indent=1) + "\n")
    return 0
