"""Linear probes from the training features to test scores, by protocol.

What is fitted or selected is fitted or selected by functions that receive training images only (`fit_logistic`,
`select_l2`, `fit_adam`, `fit_augmented`); the test images come in afterwards, for `score`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.data import Splits
from fastclr.evaluate.augmented import fit_augmented, scaled_lr
from fastclr.evaluate.features import (
    BATCH_SIZE,
    Features,
    evaluation_batches,
    extract_features,
    labelled_splits,
    with_progress,
)
from fastclr.evaluate.linear import LinearClassifier, fit_adam
from fastclr.evaluate.logistic import GRID, TOLERANCE, VALIDATION, Say, fit_logistic, select_l2
from fastclr.evaluate.scores import Scores, score


@dataclass(frozen=True)
class ProbeResult:
    """Scores of one linear probe.

    Args:
        protocol: ``lbfgs``, ``precomputed`` or ``augmented``.
        settings: hyper-parameters that were given or are defaults.
        seed: the seed.
        chosen: what was chosen on training images.
        scores: on the test images.
        train_images: images that the final classifier was fitted to.
        test_images: images that were scored.
        classifier: the classifier.
    """

    protocol: str
    settings: dict[str, Any]
    seed: int
    chosen: dict[str, Any]
    scores: Scores
    train_images: int
    test_images: int
    classifier: LinearClassifier


def lbfgs_probe(
    features: Features,
    *,
    l2: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    say: Say | None = None,
) -> ProbeResult:
    """Logistic regression on standardised features, to a gradient of 1e-5 at most; see `fit_logistic`.

    Without `l2` the regularisation is chosen by `select_l2` among 45 values, then fitted to all training images. `say`
    takes a line every few seconds.

    Raises:
        ValueError: l2 is not positive, there are fewer than two classes, or none with two images to choose l2 by.
    """
    chosen: dict[str, Any] = {}
    settings: dict[str, Any] = {"l2": l2}
    start, value = None, l2
    if value is None:
        selection = select_l2(features.train, features.train_labels, seed=seed, device=device, say=say)
        start, value = selection.start, selection.l2
        chosen = {
            "l2": value,
            "validation_accuracy": selection.accuracies[value],
            "validation_images": selection.validation_images,
            "at_the_edge_of_the_grid": value in (min(GRID), max(GRID)),
        }
        settings = {"l2": f"{len(GRID)} values, {min(GRID):g} to {max(GRID):g}", "validation": VALIDATION}
    fit = fit_logistic(features.train, features.train_labels, value, start=start, device=device, say=say)
    chosen |= {"converged": fit.converged, "gradient": fit.gradient}
    settings["tolerance"] = TOLERANCE
    return tested("lbfgs", settings, seed, chosen, fit.classifier, features)


def precomputed_probe(
    features: Features,
    *,
    epochs: int = 500,
    batch_size: int = 1000,
    lr: float = 0.01,
    weight_decay: float = 5e-6,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> ProbeResult:
    """A linear layer on features as they are, by Adam, see `fit_adam`.

    Raises:
        ValueError: there are fewer than two classes, or an argument is out of range.
    """
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    classifier = fit_adam(
        features.train,
        features.train_labels,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        device=device,
    )
    return tested("precomputed", settings, seed, {}, classifier, features)


def augmented_probe(
    encoder: nn.Module,
    data: Splits,
    augment: AugmentConfig,
    *,
    autocast: bool = False,
    device: torch.device | str = "cpu",
    epochs: int = 100,
    batch_size: int = 512,
    lr: float | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
) -> ProbeResult:
    """A linear layer on a frozen encoder that sees crops and flips, see `fit_augmented`; tested on the fixed view.

    Args:
        encoder: module from images to features.
        data: both splits; unlabelled images are left out.
        augment: of the pretraining; see `fit_augmented`.
        autocast: let the encoder compute in bfloat16.
        device: computes.
        epochs: passes over the training images.
        batch_size: images per step.
        lr: peak learning rate. Default: 0.1 batch_size / 256.
        weight_decay: times the weights, added to the gradient.
        seed: of order, crops and flips.
        workers: threads or processes that decode images which are not in memory; None: one for each core.

    Raises:
        ValueError: a split has no labels, there are fewer than two classes, or an argument is out of range.
        RuntimeError: the encoder changed.
    """
    train, test = labelled_splits(data)
    device = torch.device(device)
    encoder = encoder.to(device)
    lr = scaled_lr(batch_size) if lr is None else lr
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    classifier = fit_augmented(
        encoder,
        train,
        augment,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        autocast=autocast,
        device=device,
        loader=data.loader,
        workers=workers,
    )
    tested_on = evaluation_batches(test, device, loader=data.loader, workers=workers)
    batches = with_progress(tested_on, -(-len(test) // BATCH_SIZE), "test features")
    seen = extract_features(encoder, batches, augment, autocast=autocast)
    scores = score(classifier.logits(seen.features), seen.labels)
    return ProbeResult("augmented", settings, seed, {}, scores, len(train), len(test), classifier)


def tested(
    protocol: str,
    settings: dict[str, Any],
    seed: int,
    chosen: dict[str, Any],
    classifier: LinearClassifier,
    features: Features,
) -> ProbeResult:
    """Score a finished classifier on the test features."""
    scores = score(classifier.logits(features.test), features.test_labels)
    counts = len(features.train), len(features.test)
    return ProbeResult(protocol, settings, seed, chosen, scores, *counts, classifier)


def probe_accuracy(
    features: Features, *, l2: float = 1e-3, device: torch.device | str | None = None, say: Say | None = None
) -> float:
    """Return the test accuracy of `lbfgs_probe` at one fixed `l2`.

    Raises:
        ValueError: l2 is not positive, or there are fewer than two classes.
    """
    return lbfgs_probe(features, l2=l2, device=device, say=say).scores.top1


def summary(results: Sequence[ProbeResult]) -> dict[str, Any]:
    """Return what goes into ``results.json``: means over the seeds, sample standard deviation, and each seed alone.

    ``per_class`` and ``confusion`` are those of the first seed. ``accuracy_std`` (n - 1 in the denominator) is None
    with one seed.

    Raises:
        ValueError: there is no result, or they are of different protocols, settings or numbers of images.
    """
    if not results:
        raise ValueError("results must hold at least one probe, got none")
    first = results[0]
    for other in results[1:]:
        for name in ("protocol", "settings", "train_images", "test_images"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(f"results must agree in {name}, got {getattr(first, name)}, {getattr(other, name)}")
    top1 = [result.scores.top1 for result in results]
    top5 = [result.scores.top5 for result in results if result.scores.top5 is not None]
    return {
        "protocol": first.protocol,
        "settings": first.settings,
        "accuracy": statistics.fmean(top1),
        "accuracy_std": statistics.stdev(top1) if len(top1) > 1 else None,
        "top5": statistics.fmean(top5) if top5 else None,
        "seeds": [{"seed": r.seed, "accuracy": r.scores.top1, "top5": r.scores.top5, **r.chosen} for r in results],
        "train_images": first.train_images,
        "test_images": first.test_images,
        "per_class": first.scores.per_class,
        "confusion": first.scores.confusion,
    }
