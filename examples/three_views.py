"""Three views of each image in a loop of your own: NT-Xent of every pair of views, averaged.

    python examples/three_views.py

`SimCLRAugment(views=3)` makes all views in one call; with V views there are V (V - 1) / 2 pairs. Runs on the CPU in
seconds.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import nn

from fastclr import AugmentConfig, NTXentLoss, SimCLRAugment
from fastclr.data import make_shapes

VIEWS = 3


def main() -> None:
    """Train a small network and print its loss."""
    torch.manual_seed(0)
    shapes = make_shapes(train=512, test=8).train
    augment = SimCLRAugment(AugmentConfig.cifar(32), views=VIEWS, seed=0)
    encoder = nn.Sequential(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 64))
    loss_of = NTXentLoss(temperature=0.2)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    for epoch in range(12):
        total = 0.0
        for rows in torch.randperm(len(shapes)).split(128):
            batch = shapes.select(rows)
            views = augment(batch.images, batch.ids, epoch)  # [3, N, 3, 32, 32]
            embeddings = encoder(views.flatten(0, 1)).chunk(VIEWS)
            losses = [loss_of(one, other) for one, other in combinations(embeddings, 2)]
            loss = torch.stack(losses).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows) / len(shapes)
        if epoch % 3 == 2:
            print(f"epoch {epoch + 1:2d}  loss {total:.4f}")


if __name__ == "__main__":
    main()
