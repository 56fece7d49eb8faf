"""Several processes as one: the ranks that torchrun started, gathers between them, and checks that they agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed, nn

from fastclr.device import resolve_device

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store
    from torch.distributed import ProcessGroup

# the shape the ranks of a group last agreed on, for groups that can only communicate through a device
_agreed: WeakKeyDictionary[ProcessGroup, list[int]] = WeakKeyDictionary()
# groups of gloo beside those that can only communicate through a device
_beside: WeakKeyDictionary[ProcessGroup, ProcessGroup] = WeakKeyDictionary()
_opened = count()  # the worlds of this process


def resolve_group(group: ProcessGroup | None) -> ProcessGroup | None:
    """The group to gather over; None stands for the default group.

    Returns:
        The group, or None if it has one rank and there is nothing to gather.

    Raises:
        ValueError: torch.distributed is not available or not initialised, or this process is not a member of the group.
    """
    if not distributed.is_available():
        raise ValueError(
            "gathering needs a PyTorch built with torch.distributed; pass gather_distributed=False on one process"
        )
    if not distributed.is_initialized():
        raise ValueError(
            "gathering needs an initialised process group: call torch.distributed.init_process_group() first (torchrun "
            "sets its environment variables), or pass gather_distributed=False on one process"
        )
    group = distributed.group.WORLD if group is None else group
    if group is None or distributed.get_rank(group) < 0:
        raise ValueError("this process is not a member of the process group it should gather over")
    return group if distributed.get_world_size(group) > 1 else None


def check_same_shape(batch: Tensor, group: ProcessGroup, may_be_empty: bool = False) -> None:
    """Raise if batches differ between ranks, before a gather could hang on them.

    With a CPU backend (gloo, or ``init_process_group("cpu:gloo,cuda:nccl")``) the ranks exchange three integers on the
    CPU at every call, and no rank waits for its GPU. A group with NCCL alone must synchronise with the device to
    compare, so it does so only at the first call and when this rank's shape changes: if a single rank then changes its
    batch, the run ends in NCCL's watchdog timeout instead of this error.

    Args:
        batch: ``[N, D]`` on this rank.
        group: the ranks to compare with.
        may_be_empty: accept no rows, if no rank has any.

    Raises:
        ValueError: a batch has no rows, or shape or dtype differ; the message lists those of every rank.
    """
    mine = [*batch.shape, _DTYPES.index(batch.dtype)]
    on_cpu = "cpu:" in distributed.get_backend_config(group)
    if not on_cpu and _agreed.get(group) == mine:
        return
    message = torch.tensor(mine, device="cpu" if on_cpu else batch.device)
    every = gather_rows(message[None], group).tolist()
    if any(other != mine for other in every) or not (len(batch) or may_be_empty):
        found = ", ".join(f"rank {rank}: [{n}, {d}] {_DTYPES[kind]}" for rank, (n, d, kind) in enumerate(every))
        raise ValueError(
            f"gathering needs the same local batch, not empty, on every rank (drop or pad the last one), got {found}"
        )
    _agreed[group] = mine


_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """Concatenate the rows of all ranks in rank order, without gradient; every rank must pass the same shape.

    Args:
        rows: ``[m, ...]``.
        group: the ranks to gather from.

    Returns:
        ``[W m, ...]`` on every rank.
    """
    size = distributed.get_world_size(group)
    gathered = rows.new_empty((size * len(rows), *rows.shape[1:]))
    # renamed in torch 2.14
    all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    all_gather(gathered, rows.detach().contiguous(), group=group)
    return gathered


TIMEOUT = timedelta(minutes=30)  # how long the others wait for a rank that works alone, for example decoding images


@dataclass(frozen=True)
class World:
    """The processes of a run; a single one by default.

    Args:
        rank: index of this process.
        size: number of processes.
        device: the device this process computes on.
        group: the group of all processes, None for a single process.
        cpu_group: the same processes, for tensors on the CPU; None where `group` takes these too.
    """

    rank: int
    size: int
    device: torch.device
    group: ProcessGroup | None
    cpu_group: ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages for all of them."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Return the images per step of each process.

        Raises:
            ValueError: ``batch_size`` is not a multiple of the number of processes.
        """
        if batch_size % self.size:
            raise ValueError(
                f"batch_size counts the images of all processes and must be a multiple of their number: got "
                f"{batch_size} for {self.size} processes"
            )
        return batch_size // self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        values = values.clone()
        if (group := self.group_for(values)) is not None:
            distributed.all_reduce(values, group=group)
        return values

    def group_for(self, values: Tensor) -> ProcessGroup | None:
        """Return the group that exchanges tensors where `values` are, None for a single process."""
        return self.cpu_group if self.cpu_group is not None and values.device.type == "cpu" else self.group

    def part(self, count: int) -> Tensor:
        """Return this process's share of the rows ``0 .. count - 1``: every ``size``-th, int64."""
        # with fewer rows than processes, the surplus processes take a row that `join` drops
        return torch.arange(self.rank, count, self.size) if self.rank < count else torch.tensor([count - 1])

    def join(self, rows: Tensor, count: int) -> Tensor:
        """Merge what the processes computed for their `part` of ``count`` rows, in row order, on every process."""
        if (group := self.group_for(rows)) is None:
            return rows
        share = -(-count // self.size)
        padded = torch.cat([rows, rows.new_zeros(share - len(rows), *rows.shape[1:])])
        joined = gather_rows(padded, group).view(self.size, share, *rows.shape[1:]).transpose(0, 1)
        return joined.reshape(self.size * share, *rows.shape[1:])[:count]

    @torch.no_grad()
    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers that a module has on the first one."""
        for buffer in module.buffers() if self.group is not None else ():
            values = buffer.contiguous()
            distributed.broadcast(values, 0, group=self.group_for(values))
            buffer.copy_(values)

    def any(self, value: int) -> int:
        """Return the largest ``value`` over all processes, without synchronising with a GPU."""
        message = torch.tensor(value)
        if (group := self.group_for(message)) is None:
            return value
        distributed.all_reduce(message, op=distributed.ReduceOp.MAX, group=group)
        return int(message)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(0)


def speaks() -> bool:
    """Tell whether this process writes and prints for all of a job that torchrun started; True without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def check_single_process(what: str) -> None:
    """Raise a ValueError if torchrun started several processes: `what` runs in one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise ValueError(f"{what} runs in one process, got {count}: start it without torchrun")


@cache
def job_store() -> Store:
    """Return the store of the job, in which the ranks that torchrun started find each other; one for every world."""
    from torch.distributed.rendezvous import rendezvous

    store: Store
    store, _, _ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    store.set_timeout(TIMEOUT)
    return store


def group_beside(group: ProcessGroup) -> ProcessGroup | None:
    """Return a group of gloo with all processes, if `group`, the default one, takes no tensors on the CPU.

    All processes must call this function. A group has one such beside it, however often it is asked for.
    """
    if "cpu:" in distributed.get_backend_config(group):
        return None
    if group not in _beside:
        made: Any = distributed.new_group(backend="gloo", timeout=TIMEOUT)
        _beside[group] = made
    return _beside[group]


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or run as a single one.

    With CUDA each process takes the GPU of its local rank, and the group has both NCCL and gloo, so that the ranks can
    exchange small values without waiting for their GPUs. A group that the caller initialised is used as is, with one of
    gloo beside it if it has NCCL alone; without torchrun, the GPU is then the one of `device`, or torch's current one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; no number with several processes of torchrun.

    Raises:
        ValueError: the device does not exist, several processes were given one numbered GPU, or the group that the
            caller initialised takes no tensors on the device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    ours = not distributed.is_initialized()
    if ours and size == 1:
        yield World(0, 1, resolve_device(device), None)
        return
    chosen = resolve_device(device)
    if chosen.type == "mps" and size > 1:
        raise ValueError(f"device mps is for one process, got {size}: its tensors cannot be exchanged")
    if chosen.type == "cuda":
        local = os.environ.get("LOCAL_RANK")
        if chosen.index is not None and size > 1 and (ours or local is not None):
            raise ValueError(f"device must be cuda without a number for {size} processes, got {device!r}")
        if chosen.index is None:
            chosen = resolve_device(f"cuda:{torch.cuda.current_device() if local is None else int(local)}")
        torch.cuda.set_device(chosen)
    if ours:
        from torch._C._distributed_c10d import PrefixStore

        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        # with the keys of the world before, a rank would look for the others where they no longer are
        store = PrefixStore(f"world-{next(_opened)}", job_store())
        distributed.init_process_group(
            backend, store=store, rank=int(os.environ["RANK"]), world_size=size, timeout=TIMEOUT
        )
    size = distributed.get_world_size()
    group = distributed.group.WORLD if size > 1 else None
    if group is not None and f"{chosen.type}:" not in (backends := distributed.get_backend_config(group)):
        raise ValueError(
            f"the process group must have a backend for {chosen.type}, the device of the run, got {backends}: "
            'initialise it with init_process_group("cpu:gloo,cuda:nccl"), or pass another device'
        )
    # after an error the group stays open: closing it would wait for ranks that wait for this one. The process exits and
    # torchrun stops the others.
    yield World(distributed.get_rank(), size, chosen, group, None if group is None else group_beside(group))
    if ours:
        distributed.destroy_process_group()
