"""The script that each rank of the distributed tests runs; the test reads back its results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fastclr import NTXentLoss, nt_xent
from fastclr.compat import simclr_loss_func

PAIRS, WIDTH, DIM, TEMPERATURE = 5, 6, 4, 0.3


def make_batch(ranks: int) -> tuple[Tensor, Tensor]:
    """Return inputs of both views for all ranks, ``[ranks, PAIRS, WIDTH]``, with rows of very different lengths."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(ranks, PAIRS, WIDTH, generator=generator)
    first, second = (base + 0.5 * torch.randn(base.shape, generator=generator) for _ in range(2))
    return first * torch.logspace(-2, 2, PAIRS)[:, None], second


class Model(nn.Module):
    """An encoder and its loss, so that DistributedDataParallel averages the temperature's gradient too."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, DIM)
        self.loss = NTXentLoss(TEMPERATURE, learnable_temperature=True, **options)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.loss(self.encoder(first), self.encoder(second))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}


def collectives(profiler: profile) -> int:
    names = [event.name() for event in profiler.profiler.kineto_results.events()]
    return sum("c10d::" in name for name in names)


def run_rank() -> dict[Any, Any]:
    """Do everything a rank does, in the same order on all ranks."""
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    first, second = (view[rank] for view in make_batch(ranks))
    found: dict[str, Any] = {}
    for reduction in ("mean", "sum"):
        model = DistributedDataParallel(Model(gather_distributed=True, reduction=reduction).double())
        loss = model(first.double(), second.double())
        loss.backward()
        found[reduction] = loss.detach(), gradients(model)

    z0, z1 = first[:, :DIM].clone().requires_grad_(), second[:, :DIM].clone().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU]) as forward:
        loss, stats = nt_xent(z0, z1, TEMPERATURE, group=distributed.group.WORLD, return_stats=True)
    with profile(activities=[ProfilerActivity.CPU]) as backward:
        loss.backward()
    found["collectives"] = collectives(forward), collectives(backward)
    found["stats"] = stats.accuracy, stats.entropy

    found["uneven"] = refusal(torch.randn(PAIRS + rank, DIM), torch.randn(PAIRS + rank, DIM))
    found["widths"] = refusal(torch.randn(PAIRS, DIM + rank), torch.randn(PAIRS, DIM + rank))
    kind = torch.float64 if rank else torch.float32
    found["dtypes"] = refusal(torch.randn(PAIRS, DIM, dtype=kind), torch.randn(PAIRS, DIM, dtype=kind))
    found["empty"] = refusal(*(torch.randn(PAIRS if rank else 0, DIM) for _ in range(2)))
    found["none"] = refusal(z0, z1, reduction="none")
    found["reference"] = refusal(z0, z1, impl="reference")

    torch.manual_seed(7)
    bank = NTXentLoss(memory_bank_size=(64, DIM), gather_distributed=True)
    bank(z0, z1)
    found["bank"] = bank.memory_bank.bank.clone()
    indexes = (rank * PAIRS + torch.arange(PAIRS)).repeat(2)  # of the data set: equal ones on two ranks are one image
    found["solo"] = simclr_loss_func(torch.cat([z0, z1]), indexes, TEMPERATURE).detach()
    if ranks == 4:
        groups = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
        found["half"] = NTXentLoss(TEMPERATURE, 0, True, process_group=groups[rank // 2])(z0, z1).detach()
        found["stranger"] = refusal(z0, z1, group=groups[1 - rank // 2])
    return found


def refusal(z0: Tensor, z1: Tensor, **options: Any) -> str:
    """Return the message of the ValueError, or "" if there is none."""
    try:
        nt_xent(z0, z1, TEMPERATURE, **({"group": distributed.group.WORLD} | options))
    except ValueError as error:
        return str(error)
    return ""
