"""Hand a pretrained encoder over to a detector of torchvision: Faster R-CNN with a feature pyramid.

    python examples/detect.py [RUN]

RUN is a run of a ResNet of width 1 with ImageNet's stem (`--stem imagenet`, which images above 64 px have anyway).
Without it a small one is pretrained here, on pictures of discs; on two cores all of it takes half a minute. Replace
`scene` by your own images and boxes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import fastclr

COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.3, 0.9]])
SIDE = 96


def scene(seed: int, discs: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image [3, SIDE, SIDE] in [0, 1], and boxes [n, 4] with labels [n] from 1; 0 is the background."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.1 * torch.rand(3, SIDE, SIDE, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    boxes, labels = [], []
    for _ in range(discs):
        radius, kind = 10 + 10 * torch.rand((), generator=generator), int(torch.randint(3, (), generator=generator))
        x, y = (radius + (SIDE - 2 * radius) * torch.rand((), generator=generator) for _ in range(2))
        image[:, (rows - y) ** 2 + (columns - x) ** 2 < radius**2] = COLOURS[kind][:, None]
        boxes.append(torch.stack([x - radius, y - radius, x + radius, y + radius]))
        labels.append(kind + 1)
    return image, {"boxes": torch.stack(boxes), "labels": torch.tensor(labels)}


def detector(run: fastclr.Run, weights: Path, classes: int) -> FasterRCNN:
    """Return a detector whose backbone has the weights, and which normalises images as the encoder was trained.

    Batch norm keeps the statistics of the pretraining, as torchvision's own detectors do: a batch of two images has
    none worth computing.
    """
    backbone = resnet_fpn_backbone(backbone_name=run.config.encoder, weights=None, trainable_layers=5)
    backbone.body.load_state_dict(torch.load(weights))  # every name fits, or this raises
    augment = run.config.augment
    mean, std = augment.mean or [0.0] * 3, augment.std or [1.0] * 3
    few = {"rpn_post_nms_top_n_train": 200, "box_batch_size_per_image": 64}  # of the boxes in small images
    return FasterRCNN(backbone, classes + 1, min_size=SIDE, max_size=SIDE, image_mean=mean, image_std=std, **few)


def pretrained(folder: Path) -> fastclr.Run:
    """Pretrain on single discs, for a moment."""
    images = torch.stack([scene(seed, discs=1)[0] for seed in range(64)])
    return fastclr.pretrain(images, encoder="resnet18", size=SIDE, batch_size=32, epochs=2, out=folder)


def main(folder: str | None) -> None:
    """Export, build the detector, and train it for a few steps."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        run = pretrained(Path(work) / "run") if folder is None else fastclr.Run(folder)
        weights = run.export("torchvision", Path(work) / "encoder.pth", check=False).path
        model = detector(run, weights, classes=len(COLOURS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(13):
        images, targets = zip(*(scene(1000 + 4 * step + index) for index in range(4)), strict=True)
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")
    found = model.eval()([scene(1)[0]])[0]
    print(f"{len(found['boxes'])} boxes, the surest of class {found['labels'][:1].tolist()}: the training was short")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
