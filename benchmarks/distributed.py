"""NT-Xent over the rows of several processes: gloo on CPUs, NCCL where there is a GPU for each."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ReduceOp
from torch.multiprocessing.spawn import spawn

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_cases import LIMITS, TEMPERATURE, LossCase, exact
from fastclr.bench.loss_peers import require
from fastclr.bench.rows import Row, Spread, Unsuitable, WrongResultError
from fastclr.bench.timing import Effort
from fastclr.environment import package_versions
from fastclr.losses import NTXentLoss

PROVIDERS = {"fastclr": "", "lightly": "lightly"}
FEWEST, MOST = 5, 31


@dataclass(frozen=True)
class DistributedCase:
    """A batch spread over processes.

    Args:
        ranks: number of processes; on CPUs each has one thread.
        rows: M over all ranks.
        dim: D.
        dtype: dtype of the embeddings.
        device: `cpu` for gloo, `cuda` for NCCL with one GPU per rank.
    """

    ranks: int
    rows: int
    dim: int = 128
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name."""
        return f"{self.ranks}-ranks-M{self.rows}-D{self.dim}-{self.dtype}"

    def toy(self) -> DistributedCase:
        """The same case with few rows."""
        return replace(self, ranks=2, rows=64, dim=16)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`, in separate processes."""
        names = [name for name in PROVIDERS if not only or name in only]
        backend = "gloo" if self.device == "cpu" else "nccl"
        parameters = {**asdict(self), "backend": backend, "temperature": TEMPERATURE}

        def row(provider: str, **values: Any) -> Row:
            base = {"suite": "distributed", "case": self.name, "unit": "rows", "parameters": parameters}
            return Row(provider=provider, versions=package_versions((PROVIDERS[provider],)), **(base | values))

        if self.device == "cuda" and torch.cuda.device_count() < self.ranks:
            note = f"needs {self.ranks} GPUs, there are {torch.cuda.device_count()}"
            return [row(name, status="unsuitable", note=note) for name in names]
        with tempfile.TemporaryDirectory() as folder:
            spawn(_rank, (self, names, effort, folder), nprocs=self.ranks)
            found = json.loads(Path(folder, "rows.json").read_text())
        rows = []
        for name in names:
            result = found[name]
            if "samples" not in result:
                rows.append(row(name, **result))
                continue
            samples, ours = result["samples"], found.get("fastclr", {}).get("samples")
            made = row(name, status="ok", error=result["error"], work=self.rows, n=len(samples), inner=1)
            made.time = Spread.of([sum(sample) for sample in samples])
            for index, stage in enumerate(("forward", "backward")):
                made.stages[stage] = Spread.of([sample[index] for sample in samples])
            if ours:
                made.reference = "fastclr"
                made.ratio = Spread.of([sum(a) / sum(b) for a, b in zip(samples, ours, strict=True)])
            rows.append(made)
        return rows


def cases(device: torch.device) -> list[DistributedCase]:
    """All cases of a device."""
    if device.type == "cpu":
        return [DistributedCase(2, 4096)]
    ranks = max(2, torch.cuda.device_count())
    return [DistributedCase(ranks, m, dtype="bfloat16", device="cuda") for m in (65536, 16384)]


def _rank(rank: int, case: DistributedCase, names: list[str], effort: Effort, folder: str) -> None:
    """Run all contestants on one rank, in turn; rank 0 writes the times of the slowest rank."""
    torch.set_num_threads(1)
    device = torch.device("cpu") if case.device == "cpu" else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=case.ranks,
    )
    whole = LossCase(case.rows, case.dim, case.dtype, device="cpu")
    share = case.rows // 2 // case.ranks
    mine = slice(rank * share, (rank + 1) * share)
    views = [view.detach()[mine].to(device).requires_grad_() for view in whole.views()]
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], tuple[float, float]]] = {}
    for name in names:
        try:
            loss_of = _loss(name, device)
            found[name] = {"error": _check(whole, views, mine, loss_of, case.ranks)}
            steps[name] = _step(views, loss_of, device)
        except ModuleNotFoundError as error:
            found[name] = {"status": "not installed", "note": str(error)}
        except (Unsuitable, WrongResultError) as error:
            status = "wrong" if isinstance(error, WrongResultError) else "unsuitable"
            found[name] = {"status": status, "note": str(error)}
    for step in steps.values():
        step()
    rounds = 1
    if not effort.toy and steps:
        cost = sum(sum(step()) for step in steps.values())
        rounds = int(_agree(float(min(MOST, max(FEWEST, effort.budget_s / max(cost, 1e-9)))), device))
    for turn in range(rounds):
        order = list(steps)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            found[name].setdefault("samples", []).append([_agree(seconds, device) for seconds in steps[name]()])
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
    os._exit(0)  # torch threads that outlive the interpreter could abort the process


def _loss(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss that gathers the rows of all ranks."""
    if name == "fastclr":
        return NTXentLoss(TEMPERATURE, gather_distributed=True).to(device)
    require("lightly")
    from lightly.loss import NTXentLoss as LightlyLoss

    made: Callable[[Tensor, Tensor], Tensor] = LightlyLoss(TEMPERATURE, gather_distributed=True).to(device)
    return made


def _check(
    whole: LossCase, views: list[Tensor], mine: slice, loss_of: Callable[[Tensor, Tensor], Tensor], ranks: int
) -> float:
    """Return the largest relative error over the ranks; gradients are the whole batch's times the number of ranks."""
    for view in views:
        view.grad = None
    loss_of(*views).backward()
    pairs = whole.rows // 2
    truth = exact([v.detach() for v in whole.views()], TEMPERATURE, "ntxent", count=pairs)
    expected = torch.cat([gradient[mine] for gradient in truth.gradients]) * ranks
    got = torch.cat([v.grad.double().cpu() for v in views if v.grad is not None])
    error = _agree(float((got - expected).norm() / expected.norm()), views[0].device)
    if not error <= LIMITS[whole.dtype]:
        raise WrongResultError(error, LIMITS[whole.dtype], "gradient")
    return error


def _step(
    views: list[Tensor], loss_of: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> Callable[[], tuple[float, float]]:
    """Return a function that runs forward and backward after a barrier and returns the seconds of each."""
    import time

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def step() -> tuple[float, float]:
        for view in views:
            view.grad = None
        distributed.barrier()
        start = now()
        loss = loss_of(*views)
        between = now()
        loss.backward()
        return between - start, now() - between

    return step


def _agree(value: float, device: torch.device) -> float:
    """Return the largest of the ranks' values."""
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(shared, ReduceOp.MAX)
    return float(shared)
