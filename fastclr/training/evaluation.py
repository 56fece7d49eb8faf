"""Evaluations of a run: features of its encoder under its configuration, and kNN during training."""

from __future__ import annotations

from torch import nn

from fastclr.data import Splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import Features, knn_accuracy, labelled_features
from fastclr.methods.sync_bn import has_own_statistics
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


def evaluate_start(training: Training, run: Run) -> None:
    """Score the features of the network as it starts by kNN, which says what the training adds, and log that.

    Images that cannot be evaluated are found now, and not after the first epochs.
    """
    if training.step or not (training.config.knn_every and can_evaluate(training.data)):
        return
    scores = knn_scores(training)[1]
    if training.world.is_main:
        run.metrics.append({"kind": "eval", "epoch": 0, "step": 0, **scores})
    say(training, run, f"before training: kNN {100 * scores[KNN]:.1f}%")


def knn_scores(training: Training) -> tuple[Features, dict[str, float]]:
    """Return the features of all labelled images, and their kNN accuracy under its name in the log.

    They are those of the first process's encoder, which is stored. Where the statistics of batch norm differ between
    the processes, the others take its buffers, as they do before every step.
    """
    config, encoder = training.config, training.method.encoder
    if has_own_statistics(config):
        training.world.share_buffers(encoder)
    features = run_features(encoder, training.data, config, training.world)
    k = min(config.knn_k, len(features.train))
    return features, {KNN: knn_accuracy(features, k=k, temperature=config.knn_temperature)}


def evaluate_epoch(training: Training, run: Run) -> tuple[Features, str]:
    """Score frozen features by kNN and by the online probe, if there is one, and log that.

    Returns:
        the features, and the scores in words.
    """
    config = training.config
    features, scores = knn_scores(training)
    words = f"kNN {100 * scores[KNN]:.1f}%"
    if training.probe is not None:
        scores[LINEAR] = training.probe.accuracy(features.test, features.test_labels)
        words += f", linear {100 * scores[LINEAR]:.1f}%"
    if training.world.is_main:
        run.metrics.append({"kind": "eval", "epoch": training.epoch + 1, "step": training.step, **scores})
    if training.epoch + 1 == config.epochs and training.world.is_main:
        warn_of_no_gain(run, scores[KNN])
    say(training, run, f"epoch {training.epoch + 1}/{config.epochs}: {words}")
    return features, words


def warn_of_no_gain(run: Run, score: float) -> None:
    """Say so if the training ended with a kNN accuracy that the network had before it."""
    before = [record[KNN] for record in run.metrics.read() if record["kind"] == "eval" and record["epoch"] == 0]
    if before and score <= before[0]:
        run.say(
            f"warning: kNN is no better than the {100 * before[0]:.1f}% before training: {run.config.epochs} epochs at "
            f"--lr {run.config.lr:g} taught nothing that it measures; small networks and short runs want higher rates"
        )


def is_evaluation_due(config: PretrainConfig, epoch: int) -> bool:
    """Tell whether kNN is due after `epoch` (counted from 0)."""
    return epoch + 1 == config.epochs or (config.knn_every > 0 and (epoch + 1) % config.knn_every == 0)


def say(training: Training, run: Run, text: str) -> None:
    """Print a line, on the first process only."""
    if training.world.is_main:
        run.say(text)
