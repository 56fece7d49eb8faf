"""Learn the temperature, and monitor contrastive accuracy and entropy, which the loss provides almost for free.

    python examples/learnable_temperature.py

The parameter is log(tau), which keeps tau positive. Do not apply weight decay to it: that would pull tau towards 1.
"""

from __future__ import annotations

import torch
from torch import nn

from fastclr import NTXentLoss, nt_xent


def main() -> None:
    """Train a small encoder and its temperature, and print both."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))
    loss_of = NTXentLoss(temperature=0.5, learnable_temperature=True)
    groups = [{"params": encoder.parameters()}, {"params": loss_of.parameters(), "weight_decay": 0.0, "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for step in range(101):
        points = torch.randn(256, 32)
        view0, view1 = (points + 0.3 * torch.randn_like(points) for _ in range(2))
        z0, z1 = encoder(view0), encoder(view1)
        loss = loss_of(z0, z1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                _, stats = nt_xent(z0, z1, loss_of.temperature, return_stats=True)
            print(
                f"step {step:3d}  loss {loss.item():.4f}  temperature {loss_of.temperature.item():.4f}  "
                f"accuracy {stats.accuracy.mean().item():.3f}  entropy {stats.entropy.mean().item():.3f}"
            )


if __name__ == "__main__":
    main()
