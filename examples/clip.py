"""CLIP's loss for two towers with a learnt scale: open_clip's numbers in O(N D) memory.

    python examples/clip.py

The data are random points; a pair is one point seen by two random linear maps. Runs on the CPU in a few seconds.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from fastclr import CLIPLoss  # under torchrun: CLIPLoss(gather_distributed=True)


def main() -> None:
    """Train two small towers and print their loss."""
    torch.manual_seed(0)
    eyes, ears = torch.randn(32, 48), torch.randn(32, 24)
    images = nn.Sequential(nn.Linear(48, 128), nn.ReLU(), nn.Linear(128, 64))
    texts = nn.Sequential(nn.Linear(24, 128), nn.ReLU(), nn.Linear(128, 64))
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    loss_of = CLIPLoss()
    optimizer = torch.optim.AdamW([*images.parameters(), *texts.parameters(), log_scale], lr=1e-3, weight_decay=0.0)
    for step in range(101):
        points = torch.randn(256, 32)
        loss = loss_of(images(points @ eyes), texts(points @ ears), log_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            log_scale.clamp_(0, math.log(100))
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
