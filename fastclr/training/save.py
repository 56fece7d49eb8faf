"""Saving a training run's position and state to a checkpoint, and restoring them."""

from __future__ import annotations

from pathlib import Path

import torch

from fastclr.training.build import Training
from fastclr.training.checkpoint import Checkpoint, load_state
from fastclr.training.checkpoint_writer import CheckpointWriter
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import is_evaluation_due
from fastclr.training.step import read_totals


def is_checkpoint_due(training: Training) -> bool:
    """Tell whether to save at the end of the current epoch; the last epoch is always saved, after its evaluation."""
    due = (training.epoch + 1) % training.config.checkpoint_epochs == 0
    return due or is_evaluation_due(training.config, training.epoch)


def write_checkpoint(training: Training, writer: CheckpointWriter | None) -> None:
    """Save the position and all mutable state, unless the loss is not finite."""
    totals = training.totals.sum_over(training.world)
    if not all(bool(value.isfinite()) for value in totals.values()):
        read_totals(training)
    if writer is None:
        return
    checkpoint = Checkpoint(
        config=training.config.as_dict(),
        fingerprint=training.data.train.fingerprint,
        epoch=training.epoch,
        step_in_epoch=training.step_in_epoch,
        step=training.step,
        method=training.method.state_dict(),
        optimizer=training.optimizer.state_dict(),
        probe={} if training.probe is None else training.probe.state_dict(),
        totals=totals,
        seconds=(training.clock.training, training.clock.first_step),
    )
    writer.save(checkpoint)


def check_data(training: Training, checkpoint: Checkpoint, folder: Path) -> None:
    """Raise a ValueError if the images are others than those of a checkpoint, or labels and captions that are learnt.

    A checkpoint of before 0.1.0 does not tell images from labels.
    """
    config, train = training.config, training.data.train
    images, apart, rest = checkpoint.fingerprint.partition("-")
    labels, _, captions = rest.partition("-")
    now = train.image_fingerprint if apart else train.joint_fingerprint()
    if images != now:
        given = PretrainConfig.from_dict(checkpoint.config).labels if config.labels else None
        hint = (
            " (labels that are given later hold out test images: leave --labels to knn, probe and finetune)"
            if config.labels and given != config.labels
            else ""
        )
        raise ValueError(
            f"{folder} was trained on other images than {config.data!r} holds now (fingerprint {images[:12]}, now "
            f"{now[:12]}): restore the originals, or start a new run{hint}"
        )
    if not apart:
        return
    labels_now, _, captions_now = train.fingerprint.partition("-")[2].partition("-")
    learnt = {"labels": (labels, labels_now)} if training.method.uses_labels or training.probe else {}
    for what, (there, here) in {**learnt, "captions": (captions, captions_now)}.items():
        if there != here:
            raise ValueError(
                f"{folder} was trained on other {what} than those of {config.data!r} now (fingerprint "
                f"{there or 'none'}, now {here or 'none'}): restore the originals, or start a new run"
            )


def restore(training: Training, checkpoint: Checkpoint, folder: Path) -> None:
    """Restore `training` to the position and state of `checkpoint`.

    Raises:
        ValueError: the data differs from what the run was started with.
    """
    check_data(training, checkpoint, folder)
    source = f"the checkpoint of step {checkpoint.step} in {folder}"
    load_state(training.method, checkpoint.method, source)
    try:
        training.optimizer.load_state_dict(checkpoint.optimizer)
        if training.probe is not None:
            training.probe.load_state_dict(checkpoint.probe)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"the optimiser in {source} does not match: {type(error).__name__}: {error}") from error
    # the saved sums cover all processes of the time, however many, so just one of the current ones resumes them
    scale = 1.0 if training.world.is_main else 0.0
    training.totals.set({name: scale * torch.as_tensor(value) for name, value in checkpoint.totals.items()})
    training.epoch, training.step_in_epoch = checkpoint.epoch, checkpoint.step_in_epoch
    training.step = checkpoint.step
    training.clock.training, training.clock.first_step = checkpoint.seconds
