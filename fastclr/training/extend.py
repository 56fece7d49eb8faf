"""Going on with a run for longer than it was planned for: its past stays as it was, and its future is stated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from fastclr.training.config import PretrainConfig
from fastclr.training.phases import ExtensionKind
from fastclr.training.run import Run


def longer(folder: Path, config: PretrainConfig, extend: str | None = None) -> PretrainConfig:
    """Return the configuration with which the run in `folder` goes on, to the last of the epochs of `config`.

    Args:
        folder: of a run.
        config: as asked for now.
        extend: schedule of the rates from the last checkpoint on, if the epochs are others than the run's. A run that
            has done all of its epochs needs none: ``cosine-restart``.

    Raises:
        FileNotFoundError: `folder` holds no run.
        ValueError: other epochs would change the past, or leave nothing to do.
    """
    if extend is not None and extend not in get_args(ExtensionKind):
        raise ValueError(f"extend must be one of {', '.join(get_args(ExtensionKind))}, got {extend!r}")
    stored = Run.open(folder).config
    config = dataclasses.replace(config, extensions=stored.extensions)
    if config.epochs == stored.epochs:
        return config
    run = Run(folder, stored)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise ValueError(f"{folder} has no checkpoint yet, to go on from to other epochs: start a new run")
    done = checkpoint.epoch
    if done < stored.epochs and extend is None:
        raise ValueError(
            f"{folder} is in epoch {done + 1} of {stored.epochs}, with rates meant for {stored.epochs}: go on without "
            f"--epochs, or add --extend {' or '.join(get_args(ExtensionKind))} for other rates from here on"
        )
    if config.epochs <= done:
        raise ValueError(f"epochs counts all of a run's and must be more than the {done} done, got {config.epochs}")
    extension = (stored.epochs, checkpoint.step, extend or "cosine-restart")
    run.say(f"from step {checkpoint.step} on: {extension[2]} to epoch {config.epochs}, after {stored.epochs} planned")
    return dataclasses.replace(config, extensions=(*stored.extensions, extension))
