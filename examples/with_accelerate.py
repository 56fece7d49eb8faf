"""SimCLR in a loop of Hugging Face's Accelerate: fastclr's views and loss, Accelerate's devices and processes.

    python examples/with_accelerate.py                         # pip install accelerate
    accelerate launch --num-processes 2 examples/with_accelerate.py

The loss gathers the other processes' embeddings and has the gradient of the global batch.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastclr import AugmentConfig, NTXentLoss, SimCLRAugment
from fastclr.data import make_shapes


def main() -> None:
    """Train a small network and print its loss."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    shapes = make_shapes(train=512, test=8).train
    if not isinstance(shapes.images, Tensor):
        raise TypeError("the shapes are of one size")
    data = DataLoader(
        TensorDataset(shapes.images, shapes.ids), batch_size=128 // accelerator.num_processes, shuffle=True
    )
    encoder = nn.Sequential(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 64))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    encoder, optimizer, data = accelerator.prepare(encoder, optimizer, data)
    augment = SimCLRAugment(AugmentConfig.cifar(32), views=2, seed=0)
    loss_of = NTXentLoss(temperature=0.2, gather_distributed=accelerator.num_processes > 1)
    for epoch in range(10):
        losses = []
        for images, ids in data:
            z0, z1 = encoder(augment(images, ids, epoch).flatten(0, 1)).chunk(2)
            loss = loss_of(z0, z1)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        accelerator.print(f"epoch {epoch}  loss {sum(losses) / len(losses):.4f}")


if __name__ == "__main__":
    main()
