"""Hand a pretrained encoder over to segmentation_models_pytorch: a U-Net on it.

    pip install segmentation-models-pytorch
    python examples/segment.py [RUN]

RUN is a run of a ResNet of width 1 with ImageNet's stem (`--stem imagenet`, which images above 64 px have anyway).
Without it a small one is pretrained here; on two cores all of it takes half a minute. Replace `scene` by your own
images and masks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F

import fastclr

COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.3, 0.9]])
SIDE = 96


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """Return an image [3, SIDE, SIDE] in [0, 1], and the class of every pixel [SIDE, SIDE]: 0 is the background."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.1 * torch.rand(3, SIDE, SIDE, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    for kind, colour in enumerate(COLOURS, start=1):
        y, x, radius = (SIDE * torch.rand(3, generator=generator) * torch.tensor([1.0, 1.0, 0.25])).tolist()
        inside = (rows - y) ** 2 + (columns - x) ** 2 < (8 + radius) ** 2
        image[:, inside], mask[inside] = colour[:, None], kind
    return image, mask


def unet(run: fastclr.Run, weights: Path, classes: int) -> Any:
    """Return a U-Net with the weights in its encoder."""
    model = smp.Unet(run.config.encoder, encoder_weights=None, classes=classes + 1)
    model.encoder.load_state_dict(torch.load(weights))  # every name fits, or this raises
    return model


def normalised(images: Tensor, run: fastclr.Run) -> Tensor:
    """Return images [N, 3, H, W] in [0, 1] as the encoder was trained on them."""
    mean, std = run.config.augment.mean or [0.0] * 3, run.config.augment.std or [1.0] * 3
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def pretrained(folder: Path) -> fastclr.Run:
    """Pretrain on the same kind of images without their masks, for a moment."""
    images = torch.stack([scene(seed)[0] for seed in range(64)])
    return fastclr.pretrain(images, encoder="resnet18", size=SIDE, batch_size=32, epochs=2, out=folder)


def main(folder: str | None) -> None:
    """Export, build the network, and train it for a few steps."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        run = pretrained(Path(work) / "run") if folder is None else fastclr.Run(folder)
        weights = run.export("torchvision", Path(work) / "encoder.pth", check=False).path
        model = unet(run, weights, classes=len(COLOURS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(13):
        images, masks = map(torch.stack, zip(*(scene(1000 + 4 * step + index) for index in range(4)), strict=True))
        loss = F.cross_entropy(model(normalised(images, run)), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
