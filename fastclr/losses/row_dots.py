"""Products of the rows of two matrices, and values a row over ranks: what the losses on rows and on pairs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from fastclr.losses.inputs import HALF_TILES
from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.tiles import vector_dtype
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class RowDots(torch.autograd.Function):
    """``<a_i, b_i>`` of two ``[n, D]`` in the dtype of per-row values; autograd would keep both in that dtype too."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        """``[n]``."""
        ctx.save_for_backward(first, second)
        wide = vector_dtype(first.device)
        dots: Tensor = torch.linalg.vecdot(first.to(wide), second.to(wide))
        return dots

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """``g_i b_i`` and ``g_i a_i``."""
        return once_differentiable(_gradients, grad, *ctx.saved_tensors)


def _gradients(grad: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    factor = grad.to(first.dtype)[:, None]
    return second * factor, first * factor


def row_dots(first: Tensor, second: Tensor, impl: str) -> Tensor:
    """``<a_i, b_i>`` in the dtype of per-row values; "reference" is differentiable twice."""
    if impl == "reference":
        wide = vector_dtype(first.device)
        dots: Tensor = torch.linalg.vecdot(first.to(wide), second.to(wide))
    else:
        dots = RowDots.apply(first, second)
    return dots


def share_gradient(values: Tensor, factor: float) -> Tensor:
    """The values, with their gradient times a factor."""
    fixed = values.detach()
    return fixed + (values - fixed) * factor


def gather_tiles(rows: Tensor, group: ProcessGroup, precision: str, impl: str) -> Tensor:
    """The rows of all ranks, without gradient; where the kernels round them, rounded before they are sent."""
    return gather_rows(rows.to(HALF_TILES.get(precision, rows.dtype)) if impl == "triton" else rows, group)


def every(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """``[W n, ...]``: the values of all ranks, of which those of this rank keep their gradient."""
    if group is None:
        return values
    gathered, start = gather_rows(values, group), distributed.get_rank(group) * len(values)
    return torch.cat([gathered[:start], values, gathered[start + len(values) :]])


def own_first(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The values of all ranks, in rank order from this one on; without gradient if there is a group."""
    if group is None:
        return values
    return gather_rows(values, group).roll(-distributed.get_rank(group) * values.shape[0], 0)
