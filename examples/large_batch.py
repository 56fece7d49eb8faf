"""Train with a batch of 2048 pairs while holding the activations of only 128 at a time.

    python examples/large_batch.py

cached_step computes the gradient of the whole batch, with every pair contrasted with all others; summing the gradients
of sixteen losses of 128 pairs would be a different loss, with a sixteenth of the negatives.
"""

from __future__ import annotations

import torch
from torch import nn

from fastclr import cached_step, nt_xent


def main() -> None:
    """Train a small encoder and print its loss."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for step in range(21):
        points = torch.randn(2048, 32)
        views = [points + 0.3 * torch.randn_like(points) for _ in range(2)]
        optimizer.zero_grad()
        loss, stats = cached_step(
            encoder, views, lambda z0, z1: nt_xent(z0, z1, temperature=0.1, return_stats=True), micro_batch=128
        )
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}  accuracy {stats.accuracy.mean().item():.3f}")


if __name__ == "__main__":
    main()
