"""Networks that a user might bring."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Maps(nn.Module):
    """Returns feature maps [N, 12, h, w]."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 5, 4, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.1)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(self.norm(self.stem(images)).relu())


def make() -> nn.Module:
    """Returns features [N, 12]."""
    return nn.Sequential(Maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Tuple(Maps):
    def forward(self, images: Tensor) -> Tensor:
        return (super().forward(images), images)  # type: ignore[return-value]


class Grey(nn.Module):
    """Takes one channel only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images).flatten(1)


class Frozen(Maps):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Whole(nn.Module):
    """Merges the batch: one row for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return (self.scale * images).mean(dim=(0, 2, 3))[None]


def number() -> int:
    return 3


def broken() -> nn.Module:
    raise RuntimeError("no weights here")
