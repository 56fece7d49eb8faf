"""Evaluations of a run: features of its encoder under its configuration, and kNN during training."""

from __future__ import annotations

from torch import nn

from fastclr.data import Splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import Features, knn_accuracy, labelled_features
from fastclr.parallel import World
from fastclr.training.build import Training
from fastclr.training.config import PretrainConfig
from fastclr.training.metric_names import KNN, LINEAR
from fastclr.training.run import Run


def run_features(encoder: nn.Module, data: Splits, config: PretrainConfig, world: World | None = None) -> Features:
    """Return the features of all labelled images of `data` under a frozen `encoder`.

    Args:
        encoder: module from images to features.
        data: both splits; unlabelled images are skipped.
        config: provides the fixed view, device, precision and workers.
        world: processes that share the work; each gets all features. All of them must call this function.

    Raises:
        ValueError: there is no test split, or a split has no labels.
    """
    world = world or World(0, 1, resolve_device(config.device), None)
    autocast = uses_bf16(config.amp, world.device)
    return labelled_features(encoder, data, config.augment, world, autocast=autocast, workers=config.workers)


def can_evaluate(data: Splits) -> bool:
    """Tell whether both splits have labels."""
    return data.test is not None and int(data.train.labels.max()) >= 0 and int(data.test.labels.max()) >= 0


def evaluate_epoch(training: Training, run: Run) -> tuple[Features, str]:
    """Score frozen features by kNN and by the online probe, if there is one, and log that.

    Returns:
        the features, and the scores in words.
    """
    config = training.config
    features = run_features(training.method.encoder, training.data, config, training.world)
    k = min(config.knn_k, len(features.train))
    scores = {KNN: knn_accuracy(features, k=k, temperature=config.knn_temperature)}
    words = f"kNN {100 * scores[KNN]:.1f}%"
    if training.probe is not None:
        scores[LINEAR] = training.probe.accuracy(features.test, features.test_labels)
        words += f", linear {100 * scores[LINEAR]:.1f}%"
    if training.world.is_main:
        run.metrics.append({"kind": "eval", "epoch": training.epoch + 1, "step": training.step, **scores})
    say(training, run, f"epoch {training.epoch + 1}/{config.epochs}: {words}")
    return features, words


def is_evaluation_due(config: PretrainConfig, epoch: int) -> bool:
    """Tell whether kNN is due after `epoch` (counted from 0)."""
    return epoch + 1 == config.epochs or (config.knn_every > 0 and (epoch + 1) % config.knn_every == 0)


def say(training: Training, run: Run, text: str) -> None:
    """Print a line, on the first process only."""
    if training.world.is_main:
        run.say(text)
