"""The position of a training and everything that moves, out to a checkpoint and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastclr.training.build import Training
from fastclr.training.checkpoint import Checkpoint
from fastclr.training.checkpoint_writer import CheckpointWriter
from fastclr.training.config import PretrainConfig
from fastclr.training.step import read_totals


def is_evaluation_due(config: PretrainConfig, epoch: int) -> bool:
    """Tell whether kNN is computed after `epoch` (counted from 0)."""
    return epoch + 1 == config.epochs or (config.knn_every > 0 and (epoch + 1) % config.knn_every == 0)


def is_checkpoint_due(training: Training) -> bool:
    """Tell whether the end of the current epoch is saved; the last one always is, after its evaluation."""
    due = (training.epoch + 1) % training.config.checkpoint_epochs == 0
    return due or is_evaluation_due(training.config, training.epoch)


def write_checkpoint(training: Training, writer: CheckpointWriter | None) -> None:
    """Save the position and everything that moves; never with a loss that is not finite."""
    totals = training.world.sum(training.totals)
    if not bool(totals.isfinite().all()):
        read_totals(training)
    if writer is None:
        return
    checkpoint = Checkpoint(
        config=dataclasses.asdict(training.config),
        fingerprint=training.data.train.fingerprint,
        epoch=training.epoch,
        step_in_epoch=training.step_in_epoch,
        step=training.step,
        model=training.model.state_dict(),
        loss=training.loss.state_dict(),
        optimizer=training.optimizer.state_dict(),
        probe={} if training.probe is None else training.probe.state_dict(),
        totals=totals,
        seconds=(training.clock.training, training.clock.first_step),
    )
    writer.save(checkpoint)


def restore(training: Training, checkpoint: Checkpoint, folder: Path) -> None:
    """Put `training` where `checkpoint` was written.

    Raises:
        ValueError: the data is not what the run was started with.
    """
    fingerprint = training.data.train.fingerprint
    if checkpoint.fingerprint != fingerprint:
        raise ValueError(
            f"{folder} was trained on other images than {training.config.data!r} holds now (fingerprint "
            f"{checkpoint.fingerprint[:12]}, now {fingerprint[:12]}): restore them, or start a new run"
        )
    training.model.load_state_dict(checkpoint.model)
    training.loss.load_state_dict(checkpoint.loss)
    training.optimizer.load_state_dict(checkpoint.optimizer)
    if training.probe is not None:
        training.probe.load_state_dict(checkpoint.probe)
    if training.world.is_main:  # sums over all processes, however many there were
        training.totals.copy_(checkpoint.totals)
    training.epoch, training.step_in_epoch = checkpoint.epoch, checkpoint.step_in_epoch
    training.step = checkpoint.step
    training.clock.training, training.clock.first_step = checkpoint.seconds
