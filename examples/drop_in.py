"""Replace lightly's NTXentLoss in a plain PyTorch loop: only the import changes.

    python examples/drop_in.py

The data are random points, and the two views of a point are noisy copies of it. Runs on the CPU in a few seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastclr import NTXentLoss  # was: from lightly.loss import NTXentLoss


def two_views(batch_size: int) -> tuple[Tensor, Tensor]:
    """Return two noisy copies of random points in 32 dimensions."""
    points = torch.randn(batch_size, 32)
    return points + 0.3 * torch.randn_like(points), points + 0.3 * torch.randn_like(points)


def main() -> None:
    """Train a small encoder and print its loss."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))
    loss_of = NTXentLoss(temperature=0.1)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for step in range(101):
        view0, view1 = two_views(256)
        loss = loss_of(encoder(view0), encoder(view1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
