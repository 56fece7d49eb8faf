"""kNN and linear probes of a finished run: what is evaluated, by which protocol, and the result in ``results.json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fastclr.data import Splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import (
    Features,
    ProbeResult,
    augmented_probe,
    knn_scores,
    lbfgs_probe,
    precomputed_probe,
    summary,
)
from fastclr.evaluate.linear import check_schedule
from fastclr.evaluate.logistic import check_l2
from fastclr.evaluate.scores import CONFUSION_UP_TO
from fastclr.methods.head_layers import feature_module
from fastclr.methods.stages import stage_module
from fastclr.parallel import check_single_process
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features
from fastclr.training.images import ImageOptions, is_seen
from fastclr.training.run import Run


@dataclass(frozen=True)
class Evaluation:
    """A run to evaluate, its images, and the module from images to features."""

    run: Run
    config: PretrainConfig
    data: Splits
    encoder: nn.Module
    layer: str
    options: ImageOptions

    @property
    def device(self) -> torch.device:
        """The device to compute on."""
        return resolve_device(self.config.device)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, if there are few enough to store a confusion matrix."""
        names = self.data.train.classes
        return list(names) if len(names) <= CONFUSION_UP_TO else None

    def extract(self) -> Features:
        """Return the features of the labelled images."""
        return run_features(self.encoder, self.data, self.config)

    def store(self, kind: str, result: dict[str, Any]) -> dict[str, Any]:
        """Add what was found to ``results.json``, and return it.

        Its name tells features other than h, and other images than the run's own. Where the folder cannot be written
        to, it is returned all the same.
        """
        seen, step = is_seen(self.run, self.data, self.config), self.run.newest_step()
        result = {"features": self.layer, **result, "classes": self.classes, "test_images_seen": seen}
        result |= {} if step is None else {"step": step}
        name = self.options.result_name(self.run, kind if self.layer == "h" else f"{kind}-{self.layer}")
        try:
            self.run.add_result(name, result)
        except OSError as error:
            self.run.say(f"the result is not stored: {error}")
        return result


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ImageOptions):
    """What is evaluated: which features of which images."""

    features: str = "h"
    """Which features: `h` (the encoder's), `z` (the projection), `1`, `2`, `3` (a layer of the head), or `stage1`,
    `stage2`, ... (a stage of the encoder, or a block of a ViT, averaged over positions)."""

    def open(self, run: Run, images: Splits | None = None) -> Evaluation:
        """Load a run's model and its images; an invalid layer is rejected before the images are read.

        Args:
            run: the run.
            images: those of the run, if they are at hand.
        """
        check_single_process("an evaluation")
        config = self.config_for(run)
        resolve_device(self.device)
        encoder = self.module(run)
        return Evaluation(run, config, self.load(run, images), encoder, self.features, self)

    def module(self, run: Run) -> nn.Module:
        """Return the module from images to features."""
        if self.features.startswith("stage"):
            return stage_module(run.load_encoder(), self.features, run.config.augment.size)
        # not every method has a projection head
        return run.load_encoder() if self.features == "h" else feature_module(run.load_model(), self.features)


@dataclass(frozen=True, kw_only=True)
class KnnOptions(EvaluateOptions):
    """How neighbours vote.

    Raises:
        ValueError: a value is out of range.
    """

    k: tuple[int, ...] = ()
    """Number of neighbours that vote; several values are scored in one search. Default: as in the run."""
    temperature: float | None = None
    """Votes are weighted by exp(cosine/temperature); 0: all equally. Default: as in the run."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.k and min(self.k) < 1:
            raise ValueError(f"k must be at least 1, got {' '.join(map(str, self.k))}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")


def knn(run: Run, options: KnnOptions, images: Splits | None = None) -> dict[str, Any]:
    """Score the run by kNN on frozen features, and store the result; the first k provides its accuracy."""
    evaluation = options.open(run, images)
    temperature = run.config.knn_temperature if options.temperature is None else options.temperature or None
    known = int((evaluation.data.train.labels >= 0).sum())
    if known and options.k and max(options.k) > known:
        raise ValueError(f"k must be between 1 and the {known} labelled training images, got {max(options.k)}")
    features = evaluation.extract()
    ks = options.k or (min(run.config.knn_k, len(features.train)),)  # some may have proved unreadable
    scores = knn_scores(features, ks, temperature=temperature, device=evaluation.device)
    result = {
        "k": ks[0],
        "temperature": temperature,
        **scores[ks[0]].as_json(),
        "by_k": {str(k): each.top1 for k, each in scores.items()},
        "top5_by_k": {str(k): each.top5 for k, each in scores.items()},
        "train_images": len(features.train),
        "test_images": len(features.test),
    }
    return evaluation.store("knn", result)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(EvaluateOptions):
    """How a linear classifier is fitted.

    Raises:
        ValueError: an option belongs to another protocol, or a value is out of range.
    """

    protocol: Literal["lbfgs", "precomputed", "augmented"] = "lbfgs"
    """`lbfgs`: logistic regression, with l2 selected on a tenth of the training images. `precomputed`: Adam on features
    computed once. `augmented`: SGD on random crops and flips; the encoder runs in every epoch."""
    seeds: int = 1
    """Number of seeds (0, 1, ...); mean and standard deviation are reported."""
    l2: float | None = None
    """lbfgs: use this regularisation per sample instead of selecting it."""
    epochs: int | None = None
    """precomputed, augmented: passes over the training images. Default: 500 and 100."""
    batch_size: int | None = None
    """precomputed, augmented: images per step. Default: 1000 and 512."""
    lr: float | None = None
    """precomputed, augmented: peak learning rate. Default: 0.01 and 0.1 batch_size / 256."""
    weight_decay: float | None = None
    """precomputed, augmented: weight decay. Default: 5e-6 and 0."""

    def __post_init__(self) -> None:
        """Check now what would otherwise fail after minutes of feature extraction."""
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        given, names = self.settings(), PROTOCOLS[self.protocol]
        if foreign := [name for name in given if name not in names]:
            option = foreign[0].replace("_", "-")
            raise ValueError(f"--{option} is not an option of --protocol {self.protocol}, which takes {list(names)}")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}")
        if self.l2 is not None and self.seeds > 1:
            raise ValueError("with --l2 all seeds give the same result: drop --seeds or --l2")
        check_l2(given.get("l2", 1.0))
        checked = {"epochs": 1, "batch_size": 1, "lr": 1.0, "weight_decay": 0.0}
        check_schedule(**{name: given.get(name, default) for name, default in checked.items()})

    def settings(self) -> dict[str, Any]:
        """Return the given options as arguments for the protocol's function."""
        names = dict.fromkeys(name for own in PROTOCOLS.values() for name in own)
        return {name: value for name in names if (value := getattr(self, name)) is not None}


SCHEDULE = ("epochs", "batch_size", "lr", "weight_decay")
PROTOCOLS = {"lbfgs": ("l2",), "precomputed": SCHEDULE, "augmented": SCHEDULE}


def probe(run: Run, options: ProbeOptions, images: Splits | None = None) -> dict[str, Any]:
    """Score a linear classifier on the run's frozen features, once per seed, and store the result."""
    evaluation = options.open(run, images)
    fit = build_probe(evaluation, options)
    results = []
    for seed in range(options.seeds):
        results.append(fit(seed))
        if options.seeds > 1:
            run.say(f"seed {seed}: {100 * results[-1].scores.top1:.2f}%")
    return evaluation.store(f"probe-{options.protocol}", summary(results))


def build_probe(evaluation: Evaluation, options: ProbeOptions) -> Callable[[int], ProbeResult]:
    """Return a function from a seed to a probe; features that do not depend on the seed are extracted once, here."""
    settings, device, say = options.settings(), evaluation.device, evaluation.run.say
    if options.protocol == "augmented":
        config = evaluation.config
        place: dict[str, Any] = {"device": device, "autocast": uses_bf16(config.amp, device), "workers": config.workers}
        return lambda seed: augmented_probe(
            evaluation.encoder, evaluation.data, config.augment, seed=seed, **place, **settings
        )
    features = evaluation.extract()
    if options.protocol == "precomputed":
        return lambda seed: precomputed_probe(features, seed=seed, device=device, **settings)
    return lambda seed: lbfgs_probe(features, seed=seed, device=device, say=say, **settings)
