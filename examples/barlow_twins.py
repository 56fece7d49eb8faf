"""Replace lightly's BarlowTwinsLoss in a plain PyTorch loop: only the import changes.

    python examples/barlow_twins.py

256 embeddings of 512 dimensions: the loss takes its dual form, without a matrix of 512 x 512. Runs on the CPU in
a few seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastclr import BarlowTwinsLoss  # was: from lightly.loss import BarlowTwinsLoss


def two_views(batch_size: int, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Points of 32 hidden dimensions, mixed into 128 and seen twice with noise."""
    points = torch.randn(batch_size, 32) @ mixing
    return points + torch.randn_like(points), points + torch.randn_like(points)


def main() -> None:
    """Train a small encoder with a wide projector and print its loss and what it adds up."""
    torch.manual_seed(0)
    mixing = torch.randn(32, 128) / 32**0.5
    encoder = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 512))
    loss_of = BarlowTwinsLoss(lambda_param=1 / 512)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for step in range(81):
        view0, view1 = two_views(256, mixing)
        loss, terms = loss_of.terms(encoder(view0), encoder(view1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}  invariance {terms.invariance.item():.2f}")


if __name__ == "__main__":
    main()
