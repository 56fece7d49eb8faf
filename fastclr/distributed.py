"""Gathering over the ranks of a process group, and agreeing on shapes before it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# what the ranks of a group last agreed on, for groups that can only exchange it through a device
_agreed: WeakKeyDictionary[ProcessGroup, list[int]] = WeakKeyDictionary()


def resolve_group(group: ProcessGroup | None) -> ProcessGroup | None:
    """The group to gather over; None stands for the default group.

    Returns:
        The group, or None where it has one rank and there is nothing to gather.

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


def check_same_shape(batch: Tensor, group: ProcessGroup) -> None:
    """Refuse batches that differ between ranks, before a gather could hang on them.

    The ranks exchange three integers on the CPU at every call where the group has a CPU backend (gloo, or
    ``init_process_group("cpu:gloo,cuda:nccl")``): no rank waits for its GPU. A group with NCCL alone has to wait for
    the device to compare: it does so at the first call and when this rank's shape changes, so that with NCCL alone one
    rank changing its batch by itself ends in the watchdog's timeout instead of this error.

    Args:
        batch: ``[N, D]`` on this rank.
        group: the ranks to compare with.

    Raises:
        ValueError: shape or dtype differ, naming all of them.
    """
    mine = [*batch.shape, _DTYPES.index(batch.dtype)]
    on_cpu = "cpu:" in distributed.get_backend_config(group)
    if not on_cpu and _agreed.get(group) == mine:
        return
    message = torch.tensor(mine, device="cpu" if on_cpu else batch.device)
    every = gather_rows(message[None], group).tolist()
    if any(other != mine for other in every):
        found = ", ".join(f"rank {rank}: [{n}, {d}] {_DTYPES[kind]}" for rank, (n, d, kind) in enumerate(every))
        raise ValueError(f"gathering needs the same local batch on every rank (drop or pad the last one), got {found}")
    _agreed[group] = mine


_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """Concatenate the rows of all ranks in rank order; the same shape on every rank, no gradient.

    Args:
        rows: ``[m, ...]``.
        group: the ranks to gather from.

    Returns:
        ``[W m, ...]`` on every rank.
    """
    size = distributed.get_world_size(group)
    gathered = rows.new_empty((size * len(rows), *rows.shape[1:]))
    # renamed in torch 2.14
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(gathered, rows.detach().contiguous(), group=group)
    return gathered
