"""Runs with encoders of every kind, and features computed in a process that cannot import fastclr."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tiny_run import TINY
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.methods.encoders import build_encoder
from fastclr.training.run import Run


class StoredRun(Run):
    """A run with a given encoder instead of one read from a checkpoint."""

    def load_encoder(self) -> nn.Module:
        """Build the encoder that the configuration describes, with statistics and shifts as after training."""
        config = self.config
        torch.manual_seed(7)
        size, patch_size = config.augment.size, config.patch_size
        options = {"width": config.width, "stem": config.stem, "size": size, "patch_size": patch_size}
        encoder = build_encoder(config.encoder, **options)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)  # a zero-initialised branch would hide a wrong block
                nn.init.normal_(module.bias, std=0.1)
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        return encoder


class OwnEncoderRun(StoredRun):
    """A run whose encoder is a module of somebody's own, which no library builds by name."""

    def load_encoder(self) -> nn.Module:
        """Build it."""
        torch.manual_seed(7)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))


def stored_run(
    folder: Path,
    encoder: str,
    size: int,
    *,
    width: float = 1.0,
    stem: str = "auto",
    patch_size: int | None = None,
    kind: type[StoredRun] = StoredRun,
) -> Run:
    """Create the folder of a run with an encoder."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    augment = AugmentConfig(size, mean=mean, std=std)
    shape = {"encoder": encoder, "width": width, "stem": stem, "patch_size": patch_size}
    config = dataclasses.replace(TINY, **shape, augment=augment, data="a/b/pictures")
    return kind(Run.create(folder, config).folder, config)


def features_of_lines(cases: list[tuple[str, str, torch.Tensor]], folder: Path) -> list[npt.NDArray[np.float32]]:
    """Return the features from a fresh Python without fastclr; each case is (loading lines, how to apply, images).

    It runs in another folder and without PYTHONPATH, in one process for all cases, because importing takes seconds.
    """
    parts = ['import sys; sys.modules["fastclr"] = None']
    for number, (lines, apply, images) in enumerate(cases):
        np.save(folder / f"in{number}.npy", images.numpy())
        parts += [
            lines,
            "import numpy, torch",
            f"images = numpy.load('in{number}.npy')",
            f"with torch.no_grad(): numpy.save('out{number}.npy', {apply})",
        ]
    parts.append('assert sys.modules["fastclr"] is None')
    subprocess.run([sys.executable, "-I", "-c", "\n".join(parts)], cwd=folder, check=True)
    return [np.load(folder / f"out{number}.npy") for number in range(len(cases))]
