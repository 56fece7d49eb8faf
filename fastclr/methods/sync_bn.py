"""Batch norm with statistics shared by several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
from fastclr.methods.options import ModelOptions
from fastclr.parallel import World

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def has_own_statistics(config: ModelOptions) -> bool:
    """Tell whether each process, or group of them, has its own statistics of batch norm, until the next forward."""
    return not config.sync_bn or config.sync_bn_group is not None


def synchronise_batch_norm(model: nn.Module, world: World, group_size: int | None = None) -> nn.Module:
    """Return ``model`` with batch norm statistics shared by all processes, or by groups of ``group_size``.

    CUDA models use ``torch.nn.SyncBatchNorm``, which has no CPU implementation; on a CPU, plain batch norms become
    :class:`CpuSyncBatchNorm`. State dicts are unchanged.

    Raises:
        ValueError: ``group_size`` does not divide the number of processes, or a batch norm with a fused activation
            would have to be synchronised on a CPU.
    """
    if world.group is None:
        return model
    check_sync(model, world, group_size)
    group: Any = world.group
    if group_size is not None:
        ranks = range(world.size)
        groups = [distributed.new_group(list(ranks[i : i + group_size])) for i in range(0, world.size, group_size)]
        group = groups[world.rank // group_size]
    if world.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(model, group)
        return converted
    _convert_for_cpu(model, group)
    return model


def check_sync(model: nn.Module, world: World, group_size: int | None = None) -> None:
    """Raise the ValueError of `synchronise_batch_norm`, if there will be one."""
    if world.group is None:
        return
    if group_size is not None and world.size % group_size:
        raise ValueError(f"sync_bn_group must divide the {world.size} processes, got {group_size}")
    for module in model.modules() if world.device.type != "cuda" else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in PLAIN:
            raise ValueError(
                f"sync_bn on a CPU needs plain batch norms, got {type(module).__name__}: use a GPU or sync_bn=False"
            )


def _convert_for_cpu(module: nn.Module, group: Any) -> None:
    for name, child in module.named_children():
        if type(child) in PLAIN:
            setattr(module, name, CpuSyncBatchNorm(child, group))
        else:
            _convert_for_cpu(child, group)


class _SumOverRanks(torch.autograd.Function):
    """The sum over the processes of a group, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        values = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return _SumOverRanks.apply(grad_output, ctx.group), None


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """CPU batch norm over all processes of a group, in two passes: the mean first, then the variance around it.

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and var over the samples of all ranks; the gradient
    flows through both, across all ranks.

    Args:
        norm: the batch norm whose weights, statistics and options are used.
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
        """Normalise ``[N, C, ...]``, using the running statistics in evaluation mode."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None):
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        over = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = torch.tensor(x.numel() / x.shape[1], dtype=x.dtype)
        distributed.all_reduce(count, group=self.group)
        mean: Tensor = _SumOverRanks.apply(x.sum(over), self.group) / count
        centred = x - mean.view(shape)
        var: Tensor = _SumOverRanks.apply((centred * centred).sum(over), self.group) / count
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
