"""Train with negatives from all processes under DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/ddp.py

Every process contrasts its rows with those of all processes, and the gradients are those of one process with the whole
batch: gather_distributed=True multiplies them by the number of processes, and DistributedDataParallel averages them.
With a CPU backend next to NCCL, the processes can compare their batch sizes without waiting for a GPU.
"""

from __future__ import annotations

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fastclr import NTXentLoss


def main() -> None:
    """Train a small encoder on every process and print the mean loss from the first."""
    use_gpu = torch.cuda.is_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if use_gpu else "gloo")
    rank = distributed.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if use_gpu else torch.device("cpu")
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
    model = DistributedDataParallel(encoder)
    loss_of = NTXentLoss(temperature=0.1, gather_distributed=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(1 + rank)
    for step in range(41):
        points = torch.randn(128, 32, device=device)
        views = torch.cat([points + 0.3 * torch.randn_like(points) for _ in range(2)])
        # one pass for both views: DistributedDataParallel expects one forward per backward
        z0, z1 = model(views).chunk(2)
        loss = loss_of(z0, z1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            mean = loss.detach().clone()
            distributed.all_reduce(mean)
            if rank == 0:
                print(f"step {step:3d}  loss {mean.item() / distributed.get_world_size():.4f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
