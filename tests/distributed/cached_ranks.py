"""The script that each rank of the cached gradient tests runs; the test reads back its results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fastclr import NTXentLoss, cached_step

PAIRS, WIDTH, DIM, TEMPERATURE = 7, 6, 4, 0.3
MICRO_BATCHES = (1, 3, 7)


def make_batches(ranks: int) -> Tensor:
    """Return two batches of two views for all ranks, ``[2, 2, ranks, PAIRS, WIDTH]``."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(2, 1, ranks, PAIRS, WIDTH, generator=generator)
    return (base + 0.5 * torch.randn(2, 2, ranks, PAIRS, WIDTH, generator=generator)).double()


def make_encoder(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8) if norm else nn.Tanh()
    return nn.Sequential(nn.Linear(WIDTH, 8), middle, nn.Linear(8, DIM)).double()


def make_loss(**options: Any) -> NTXentLoss:
    return NTXentLoss(TEMPERATURE, learnable_temperature=True, **options).double()


def direct_step(model: nn.Module, views: Tensor, loss: nn.Module) -> Tensor:
    value: Tensor = loss(*model(views.flatten(0, 1)).chunk(2))
    value.backward()
    return value.detach()


def grads(*modules: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for module in modules for p in module.parameters()]


def reductions(profiler: profile) -> int:
    return sum("allreduce" in event.name() for event in profiler.profiler.kineto_results.events())


def run_rank() -> dict[Any, Any]:
    """Do everything a rank does, in the same order on all ranks."""
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    batches = make_batches(ranks)[:, :, rank]
    found: dict[str, Any] = {}
    for micro_batch in MICRO_BATCHES:
        model = DistributedDataParallel(make_encoder())
        loss = DistributedDataParallel(make_loss(gather_distributed=True))  # reduces the gradient of the temperature
        first = cached_step(model, batches[0], loss, micro_batch)
        after_one = grads(model, loss)
        cached_step(model, batches[1], loss, micro_batch)  # accumulates
        found[f"cached {micro_batch}"] = first, after_one, grads(model, loss)

    loss = make_loss(gather_distributed=True)
    for name, step in (("direct", direct_step), ("cached", lambda *parts: cached_step(*parts, 3))):
        model = DistributedDataParallel(make_encoder())
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step(model, batches[0], loss)
        found[f"{name} reductions"] = reductions(profiler)

    # running statistics: rank 0 gives its own to the others before the next forward
    for name, step in (("direct", direct_step), ("cached", lambda *parts: cached_step(*parts, PAIRS))):
        model = DistributedDataParallel(make_encoder(norm=True))
        for batch in batches:
            step(model, batch, loss)
        found[f"{name} buffers"] = [buffer.clone() for buffer in model.buffers()]

    if ranks == 2:  # the compiler takes seconds to import
        model = DistributedDataParallel(torch.compile(make_encoder(), backend="aot_eager"))
        cached_step(model, batches[0], loss, 3)
        found["compiled inside"] = grads(model)
        in_place = DistributedDataParallel(make_encoder())
        in_place.compile()
        outside = torch.compile(DistributedDataParallel(make_encoder()))
        found["compiled outside"] = [refusal(wrapper, batches[0], loss) for wrapper in (in_place, outside)]
    return found


def refusal(model: nn.Module, views: Tensor, loss: nn.Module) -> str:
    """Return the message of the ValueError, or "" if there is none."""
    try:
        cached_step(model, views, loss, 3)
    except ValueError as error:
        return str(error)
    return ""
