"""What every rank runs to test Gram losses and losses of pairs; the results are read back by the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightly import loss as lightly_loss
from ranks import collectives
from torch import Tensor, distributed, nn
from torch.distributed.nn import all_gather
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fastclr.compat import barlow_loss_func, lightly, mocov3_loss_func, simclr_loss_func
from fastclr.losses import BarlowTwinsLoss, MarginTripletLoss, NTLogisticLoss, SigLIPLoss, VICRegLoss

ROWS, WIDTH, DIM = 3, 6, 8


class SoloBarlow(nn.Module):
    """solo-learn's function, by its formula or as the drop-in that reproduces it."""

    def __init__(self, original: bool) -> None:
        super().__init__()
        self.original = original

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        if not self.original:
            return barlow_loss_func(z1, z2, original_ranks=True)
        norm = nn.BatchNorm1d(DIM, affine=False).double()
        correlation = norm(z1).T @ norm(z2) / len(z1)
        distributed.all_reduce(correlation)
        correlation = correlation / distributed.get_world_size()
        identity = torch.eye(DIM, dtype=z1.dtype)
        return 0.025 * ((correlation - identity) ** 2 * (identity + 5e-3 * (1 - identity))).sum()


class SoloSimCLR(nn.Module):
    """solo-learn's function with labels that the ranks share, by its formula or as the drop-in."""

    def __init__(self, original: bool) -> None:
        super().__init__()
        self.original = original

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        z, labels = torch.cat([z1, z2]), torch.arange(2 * len(z1)) % 3 % 2
        if not self.original:
            return simclr_loss_func(z, labels, 0.3)
        z = torch.cat(all_gather(functional.normalize(z, dim=1)))
        labels = labels.repeat(distributed.get_world_size())
        similar, same = torch.exp(z @ z.T / 0.3), labels[:, None] == labels
        positive = (similar * (same & ~torch.eye(len(z), dtype=torch.bool))).sum(1)
        return -torch.log(positive / (positive + (similar * ~same).sum(1))).mean()


class SoloMoCoV3(nn.Module):
    """solo-learn's function, by its formula or as the drop-in."""

    def __init__(self, original: bool) -> None:
        super().__init__()
        self.original = original

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        if not self.original:
            return mocov3_loss_func(query, key, 0.3)
        query, key = functional.normalize(query, dim=1), functional.normalize(key, dim=1)
        keys = torch.cat([x.detach() for x in all_gather(key)]) if distributed.get_world_size() > 1 else key.detach()
        target = torch.arange(len(query)) + len(query) * distributed.get_rank()
        return 0.6 * functional.cross_entropy(query @ keys.T / 0.3, target)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "barlow-primal": partial(BarlowTwinsLoss, form="primal"),
    "barlow-dual": partial(BarlowTwinsLoss, form="dual"),
    "vicreg-primal": partial(VICRegLoss, form="primal"),
    "vicreg-dual": partial(VICRegLoss, form="dual"),
    "siglip": partial(SigLIPLoss, 5.0, -2.0, learnable=True),
    "siglip-sum": partial(SigLIPLoss, 5.0, -2.0, learnable=True, reduction="sum"),
    "logistic": partial(NTLogisticLoss, 0.3),
    "logistic-both": partial(NTLogisticLoss, 0.3, negatives="both_views"),
    "logistic-mined": partial(NTLogisticLoss, 0.3, mining="semi_hard"),
    "triplet": partial(MarginTripletLoss, 0.4, mining="none"),
    "triplet-mined": partial(MarginTripletLoss, 0.4),
    "triplet-mined-sum": partial(MarginTripletLoss, 0.4, reduction="sum"),
}
# drop-ins and what they replace
PEERS: dict[str, nn.Module] = {
    "lightly-barlow": lightly_loss.BarlowTwinsLoss(gather_distributed=True),
    "our-barlow": lightly.BarlowTwinsLoss(gather_distributed=True, local_statistics=True),
    "lightly-vicreg": lightly_loss.VICRegLoss(gather_distributed=True),
    "our-vicreg": lightly.VICRegLoss(gather_distributed=True),
    "solo-barlow": SoloBarlow(original=True),
    "our-solo-barlow": SoloBarlow(original=False),
    "solo-simclr": SoloSimCLR(original=True),
    "our-solo-simclr": SoloSimCLR(original=False),
    "solo-mocov3": SoloMoCoV3(original=True),
    "our-solo-mocov3": SoloMoCoV3(original=False),
}


def make_batch(ranks: int) -> tuple[Tensor, Tensor]:
    """Inputs of both views for all ranks, ``[ranks, ROWS, WIDTH]``."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(ranks, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    first, second = (base + 0.5 * torch.randn(base.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


class Model(nn.Module):
    """An encoder and its loss, so that DistributedDataParallel averages the gradients of scale and bias too."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(WIDTH, DIM)
        self.loss = loss

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.loss(self.encoder(first), self.encoder(second))


def gradient(model: nn.Module) -> Tensor:
    """The gradients of all parameters in one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def run_rank() -> dict[Any, Any]:
    """Everything a rank does, in an order all ranks share."""
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    views = [view[rank] for view in make_batch(ranks)]
    found: dict[str, Any] = {}
    for name, kind in LOSSES.items():
        loss_of = kind(gather_distributed=True)
        model = DistributedDataParallel(Model(loss_of).double())
        loss = model(*views)
        loss.backward()
        found[name] = loss.detach(), gradient(model)
        rows = [view[:, :DIM].clone().requires_grad_() for view in views]
        with profile(activities=[ProfilerActivity.CPU]) as forward:
            loss = loss_of(*rows)
        with profile(activities=[ProfilerActivity.CPU]) as backward:
            loss.backward()
        found[f"{name}-collectives"] = collectives(forward), collectives(backward)
    for name, loss_of in PEERS.items():
        model = DistributedDataParallel(Model(loss_of).double())
        loss = model(*views)
        loss.backward()
        found[name] = loss.detach(), gradient(model)
    for what, rows in (("uneven", ROWS + rank), ("empty", ROWS if rank else 0)):
        found[what] = {name: refusal(kind(gather_distributed=True), rows) for name, kind in LOSSES.items()}
    return found


def refusal(loss_of: nn.Module, rows: int) -> str:
    """The message of the ValueError that ranks with different batches get."""
    try:
        loss_of(*(torch.randn(rows, DIM) for _ in range(2)))
    except ValueError as error:
        return str(error)
    return ""
