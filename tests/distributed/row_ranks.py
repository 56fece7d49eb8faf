"""What every rank of the tests of the row-softmax losses runs; the results are read back by the test."""

from __future__ import annotations

from typing import Any

import torch
from ranks import collectives
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from fastclr import BLIPLoss, CLIPLoss, DCLLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss, SupConLoss

ROWS, HARD, WIDTH, DIM = 6, 4, 7, 5
LOSSES: dict[str, tuple[type, dict[str, Any]]] = {
    "clip": (CLIPLoss, {}),
    "clip by id": (CLIPLoss, {}),
    "clip filtered": (CLIPLoss, {"margin": 0.1}),
    "blip": (BLIPLoss, {}),
    "blip by id": (BLIPLoss, {"alpha": 0.7}),
    "info_nce": (InfoNCELoss, {}),
    "info_nce set": (InfoNCELoss, {}),
    "info_nce own": (InfoNCELoss, {}),
    "info_nce filtered": (InfoNCELoss, {"margin": 0.1}),
    "sup_con out": (SupConLoss, {}),
    "sup_con in": (SupConLoss, {"form": "in"}),
    "dcl": (DCLLoss, {}),
    "dclw": (DCLLoss, {"weighting": "mises_fisher"}),
    "debiased": (DebiasedNTXentLoss, {}),
    "hard": (DebiasedNTXentLoss, {"hardness": 0.7}),
    "multiple": (MultipleNegativesLoss, {"margin": 0.3, "query_query": True, "document_document": True}),
}


def make_batch(ranks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs of all ranks: two views, hard negatives, and labels whose counts differ between ranks."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(ranks, ROWS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    hard = torch.randn(ranks, HARD, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.arange(ranks * ROWS).view(ranks, ROWS) ** 2 % 7
    labels[:, 0] = -1
    return first, first + 0.7 * second, hard, labels


class Model(nn.Module):
    """An encoder and a loss with a learnable temperature, so that the ranks average both."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        self.encoder = nn.Linear(WIDTH, DIM, dtype=torch.float64)
        kind, others = LOSSES[name]
        self.loss = kind(0.3, learnable_temperature=True, **others, **options).double()

    def forward(self, first: Tensor, second: Tensor, hard: Tensor, labels: Tensor) -> Tensor:
        a, b, n = self.encoder(first), self.encoder(second), self.encoder(hard)
        if self.name.startswith("sup_con"):
            return self.loss(torch.stack([a, b], dim=1), labels)
        if self.name.startswith("blip"):
            # queues are the same on every rank
            queues = [torch.linspace(-2, 3, 4 * DIM, dtype=torch.float64).add(x).sin().view(4, DIM) for x in (0, 1)]
            ids = {} if self.name == "blip" else {"ids": labels.abs(), "queue_ids": torch.arange(4)}
            return self.loss(a, b, a.detach().flip(1), b.detach().roll(1, 1), *queues, **ids)
        if self.name in ("clip by id", "clip filtered"):
            return self.loss(a, b, ids=labels.abs())
        if self.name == "info_nce set":
            return self.loss(a, b, n)
        if self.name == "info_nce own":
            return self.loss(a, b, torch.stack([b.roll(1, 1), 2 - b], dim=1))
        if self.name == "multiple":
            return self.loss(a, b, n, labels.abs(), torch.arange(len(n)) % 3)
        return self.loss(a, b)


def refusal(loss: nn.Module, *inputs: Tensor) -> str:
    """The message of the ValueError, or nothing."""
    try:
        loss(*inputs)
    except ValueError as error:
        return str(error)
    return ""


def run_rank() -> dict[Any, Any]:
    """Every loss on this rank's share, in an order all ranks share."""
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    batch = [x[rank] for x in make_batch(ranks)]
    found: dict[str, Any] = {}
    for name in LOSSES:
        for reduction in ("mean", "sum"):
            model = Model(name, gather_distributed=True, reduction=reduction)
            parallel = DistributedDataParallel(model)
            loss = parallel(*batch)
            loss.backward()
            found[name, reduction] = loss.detach(), {key: p.grad.clone() for key, p in model.named_parameters()}
        with profile(activities=[ProfilerActivity.CPU]) as forward:
            loss = model(*batch)
        with profile(activities=[ProfilerActivity.CPU]) as backward:
            loss.backward()
        found[name, "collectives"] = collectives(forward), collectives(backward)
    uneven = torch.randn(ROWS + rank, DIM)
    found["uneven"] = refusal(CLIPLoss(gather_distributed=True), uneven, uneven)
    some, none = torch.randn(ROWS if rank else 0, DIM), torch.randn(0, DIM)
    for name in ("clip", "info_nce", "sup_con out", "dcl", "debiased", "multiple"):
        loss = LOSSES[name][0](gather_distributed=True)
        found["empty", name] = [
            refusal(loss, *([torch.stack([x, x], 1)] if name.startswith("sup_con") else [x, x])) for x in (some, none)
        ]
    return found
