"""What every rank of the tests of the Gram losses runs; the results are read back by the test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from ranks import collectives
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fastclr.losses import BarlowTwinsLoss, VICRegLoss

ROWS, WIDTH, DIM = 3, 6, 8
LOSSES = {"barlow": BarlowTwinsLoss, "vicreg": VICRegLoss}


def make_batch(ranks: int) -> tuple[Tensor, Tensor]:
    """Inputs of both views for all ranks, ``[ranks, ROWS, WIDTH]``."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(ranks, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    first, second = (base + 0.5 * torch.randn(base.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


def make_encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, DIM).double()


def gradient(encoder: nn.Module) -> Tensor:
    """The gradients of all parameters in one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()])


def run_rank(rank: int, ranks: int, folder: str) -> None:
    """Everything a rank does, in an order all ranks share."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    views = [view[rank] for view in make_batch(ranks)]
    found: dict[str, Any] = {}
    for name, kind in LOSSES.items():
        for form in ("primal", "dual"):
            model = DistributedDataParallel(make_encoder())
            with profile(activities=[ProfilerActivity.CPU]) as forward:
                loss = kind(gather_distributed=True, form=form)(*(model.module(view) for view in views))
            rows = [model.module(view).detach().requires_grad_() for view in views]
            again = kind(gather_distributed=True, form=form)(*rows)
            with profile(activities=[ProfilerActivity.CPU]) as backward:
                again.backward()
            kind(gather_distributed=True, form=form)(*(model(view) for view in views)).backward()
            found[f"{name}-{form}"] = loss.detach(), gradient(model)
            found[f"{name}-{form}-collectives"] = collectives(forward), collectives(backward)
    try:
        BarlowTwinsLoss(gather_distributed=True)(*(torch.randn(ROWS + rank, DIM) for _ in range(2)))
    except ValueError as error:
        found["uneven"] = str(error)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()
    os._exit(0)  # threads of torch may outlive the interpreter and abort it
