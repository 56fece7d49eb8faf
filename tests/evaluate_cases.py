"""Data and modules that the tests of the evaluation share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def blobs(count: int, seed: int, noise: float, classes: int = 3, width: int = 8) -> tuple[Tensor, Tensor]:
    """Points around one direction per class, with their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


class Net(nn.Sequential):
    """An encoder with batch norm and dropout, four features."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
