"""Several processes as one: the ranks that torchrun started, batch norm over all of them, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from fastclr.device import resolve_device
from fastclr.distributed import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TIMEOUT = timedelta(minutes=30)  # the longest that one rank may work alone, while it loads images for one


@dataclass(frozen=True)
class World:
    """The processes of a run; a single one by default.

    Args:
        rank: number of this process.
        size: number of processes.
        device: where this process computes.
        group: all of them, None for a single process.
    """

    rank: int
    size: int
    device: torch.device
    group: ProcessGroup | None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Return the images per step of each process.

        Raises:
            ValueError: ``batch_size`` does not divide by the number of processes.
        """
        if batch_size % self.size:
            raise ValueError(
                f"batch_size counts the images of all processes and must divide by them: got {batch_size} for "
                f"{self.size} processes"
            )
        return batch_size // self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        values = values.clone()
        if self.group is not None:
            distributed.all_reduce(values, group=self.group)
        return values

    def part(self, count: int) -> Tensor:
        """Return the rows of ``0 .. count - 1`` that are this process's: every ``size``-th, int64."""
        # with fewer rows than processes, some take a row that `join` drops
        return torch.arange(self.rank, count, self.size) if self.rank < count else torch.tensor([count - 1])

    def join(self, rows: Tensor, count: int) -> Tensor:
        """Put the rows that the processes made of their `part` of ``count`` into their order, on every process."""
        if self.group is None:
            return rows
        share = -(-count // self.size)
        padded = torch.cat([rows, rows.new_zeros(share - len(rows), *rows.shape[1:])])
        joined = gather_rows(padded, self.group).view(self.size, share, *rows.shape[1:]).transpose(0, 1)
        return joined.reshape(self.size * share, *rows.shape[1:])[:count]

    def any(self, value: int) -> int:
        """Return the largest ``value`` of all processes; no process waits for its GPU."""
        if self.group is None:
            return value
        message = torch.tensor(value)
        distributed.all_reduce(message, op=distributed.ReduceOp.MAX, group=self.group)
        return int(message)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(0)


def check_single_process(what: str) -> None:
    """Raise a ValueError under torchrun with several processes: `what` runs in one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise ValueError(f"{what} runs in one process, got {count}: start it without torchrun")


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one.

    With CUDA every process takes the GPU of its local rank, and the group has both NCCL and gloo, so that the ranks can
    agree on small things without waiting for their GPUs. A group that the caller initialised is used as it is.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; under torchrun without a number.

    Raises:
        ValueError: the device is not there, or is one numbered GPU for several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    ours = not distributed.is_initialized()
    if ours and size == 1:
        yield World(0, 1, resolve_device(device), None)
        return
    chosen = resolve_device(device)
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if chosen.index is not None and size > 1:
            raise ValueError(f"device must be cuda without a number for {size} processes, got {device!r}")
        chosen = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    if ours:
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)
    size = distributed.get_world_size()
    group = distributed.group.WORLD if size > 1 else None
    # after an error the group is left alone: closing it would wait for ranks that wait for this one. The process ends,
    # and torchrun stops the others.
    yield World(distributed.get_rank(), size, chosen, group)
    if ours:
        distributed.destroy_process_group()


def synchronise_batch_norm(model: nn.Module, world: World, group_size: int | None = None) -> nn.Module:
    """Return ``model`` with batch norms whose statistics are those of all processes, or of groups of ``group_size``.

    CUDA models take ``torch.nn.SyncBatchNorm``, which has no CPU implementation; on a CPU plain batch norms become
    :class:`CpuSyncBatchNorm`. State dicts stay the same.

    Raises:
        ValueError: ``group_size`` does not divide the number of processes, or a batch norm with a fused activation is
            to be synchronised on a CPU.
    """
    if world.group is None:
        return model
    group: Any = world.group
    if group_size is not None:
        if world.size % group_size:
            raise ValueError(f"sync_bn_group must divide the {world.size} processes, got {group_size}")
        ranks = range(world.size)
        groups = [distributed.new_group(list(ranks[i : i + group_size])) for i in range(0, world.size, group_size)]
        group = groups[world.rank // group_size]
    if world.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(model, group)
        return converted
    _convert_for_cpu(model, group)
    return model


def _convert_for_cpu(module: nn.Module, group: Any) -> None:
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            setattr(module, name, CpuSyncBatchNorm(child, group))
        elif isinstance(child, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"sync_bn on a CPU takes plain batch norms, got {type(child).__name__}: use a GPU, or sync_bn=False"
            )
        else:
            _convert_for_cpu(child, group)


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all processes of a group on a CPU, in two passes: the mean first, then the variance around it.

    y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over the samples of all ranks; the gradient flows
    through both, over all ranks.

    Args:
        norm: the batch norm to take weights, statistics and options from.
        group: the processes.
    """

    def __init__(self, norm: Any, group: ProcessGroup) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.group = group
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs [N, C, ...], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; with the running statistics in evaluation mode."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None):
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        from torch.distributed.nn.functional import all_reduce

        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        over = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = torch.tensor(x.numel() / x.shape[1], dtype=x.dtype)
        distributed.all_reduce(count, group=self.group)
        mean: Tensor = all_reduce(x.sum(over), group=self.group) / count
        centred = x - mean.view(shape)
        var: Tensor = all_reduce((centred * centred).sum(over), group=self.group) / count
        if self.training and self.running_mean is not None:
            self._track(mean.detach(), var.detach() * count / (count - 1))
        y = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _track(self, mean: Tensor, var: Tensor) -> None:
        counted: Any = self.num_batches_tracked
        running: Any = self.running_mean, self.running_var
        with torch.no_grad():
            counted += 1
            factor = 1.0 / float(counted) if self.momentum is None else self.momentum
            for old, new in zip(running, (mean, var), strict=True):
                old.lerp_(new.to(old.dtype), factor)
