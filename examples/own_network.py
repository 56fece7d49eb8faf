"""Pretrain a network of your own on a Dataset of your own, and use what it has learnt.

    python examples/own_network.py

The network returns feature maps, which fastclr averages. The same script runs under torchrun, with `resume="auto"` as a
job that may be restarted. On two cores it takes half a minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import fastclr


class Discs(Dataset[tuple[Tensor, int]]):
    """Stands for your own: item i is an image [3, H, W] in [0, 1] and a label; no transforms, which are fastclr's."""

    classes = ("red", "green", "blue")

    def __init__(self, count: int, seed: int) -> None:
        self.draws = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y, radius = self.draws[index].tolist()
        rows, columns = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
        inside = (rows - y) ** 2 + (columns - x) ** 2 < (0.1 + 0.3 * radius) ** 2
        image = torch.full((3, 32, 32), 0.5)
        image[index % 3, inside] = 1.0
        return image, index % 3


def make() -> nn.Module:
    """Return the network; on the command line this is `--encoder own_network:make`."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)  # images [N, 3, 32, 32] -> maps [N, 128, 4, 4]


def main() -> None:
    """Train, evaluate, and go on."""
    torch.manual_seed(0)
    data = {"train": Discs(512, seed=0), "test": Discs(128, seed=1)}
    options = {"size": 32, "batch_size": 64, "lr": 0.1, "temperature": 0.2, "log_every": 8, "gray_p": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        run = fastclr.pretrain(data, encoder=make(), epochs=8, out=Path(folder) / "run", **options)
        for record in run.metrics:
            if record["kind"] == "train":
                print(f"step {record['step']:3d}  loss {record['train/loss']:.4f}")
        print(f"kNN {run.knn()['accuracy']:.3f}, features {tuple(run.encoder(torch.zeros(1, 3, 32, 32)).shape)}")


if __name__ == "__main__":
    main()
