"""A run on a Dataset and a network of one's own, as a script: `python given_run.py OUT`, also under torchrun."""

from __future__ import annotations

import sys
from typing import Any

import torch
from my_nets import Maps
from torch.utils.data import Dataset

import fastclr
from fastclr.data import make_shapes


class Shapes(Dataset[Any]):
    """The built-in shapes, as anybody's Dataset: images as tensors [3, H, W] in [0, 1], with labels."""

    def __init__(self, train: bool, count: int) -> None:
        splits = make_shapes(train=128, test=64)
        self.images = splits.train if train or splits.test is None else splits.test
        self.count = count
        self.classes = list(self.images.classes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= self.count:
            raise IndexError(index)
        return self.images.images[index].permute(2, 0, 1).float() / 255, int(self.images.labels[index])


def train(out: str, **options: Any) -> fastclr.Run:
    torch.manual_seed(0)
    quick: dict[str, Any] = {"epochs": 2, "batch_size": 32, "log_every": 1, "device": "cpu", "deterministic": True}
    data = {"train": Shapes(True, 128), "test": Shapes(False, 64)}
    encoder = Maps()
    encoder.drop.p = 0.0  # which differs between one process and two
    return fastclr.pretrain(data, encoder=encoder, out=out, amp="off", **{**quick, **options})


if __name__ == "__main__":
    train(sys.argv[1], **({"resume": "auto"} if "auto" in sys.argv else {}))
