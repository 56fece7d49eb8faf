"""The operators of paired_blocks.py and the autograd functions around them: the CPU's way of CLIP and of ranking.

:class:`ClipFunction` and :class:`RankingFunction` give what the operator ``lse`` and the row functions would on one
process; row_loss.py decides where they apply.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastclr.losses import paired_blocks, tiles
from fastclr.losses.once_differentiable import once_differentiable

_HOW = "Tensor scale, bool normalize, str shift, str precision"
SCHEMAS = {
    "clip_fwd": f"(Tensor first, Tensor second, {_HOW}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "clip_bwd": (
        "(Tensor[] grads, Tensor rows, Tensor columns, Tensor x, Tensor y, Tensor inverse_x, Tensor inverse_y, "
        f"{_HOW}) -> (Tensor, Tensor, Tensor)"
    ),
    "ranking": f"(Tensor first, Tensor[] columns, {_HOW}, bool grads) -> (Tensor, Tensor, Tensor, Tensor)",
}


class PairedOptions(NamedTuple):
    """Everything but the tensors; checked by the caller."""

    normalize: bool
    shift: str
    precision: str


def _run(name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        # the dtypes are settled: autocast would round the matrix products of the blocks
        with torch.autocast("cpu", enabled=False):
            return getattr(paired_blocks, name)(*args)

    return call


def _fake_clip_fwd(first: Tensor, second: Tensor, scale: Tensor, normalize: bool, *_: Any) -> tuple[Tensor, ...]:
    wide = tiles.vector_dtype(first.device)
    vectors = tuple(first.new_empty(first.shape[0], dtype=wide) for _ in range(3))
    rows = tuple(side.new_empty(side.shape, dtype=tiles.compute_dtype(side.dtype)) for side in (first, second))
    inverse = tuple(first.new_empty(first.shape[0] if normalize else 0, dtype=wide) for _ in range(2))
    return *vectors, *rows, *inverse


def _fake_clip_bwd(grads: list[Tensor], rows: Tensor, columns: Tensor, x: Tensor, y: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(y), rows.new_empty(())


def _fake_ranking(first: Tensor, columns: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    wide, dtype = tiles.vector_dtype(first.device), tiles.compute_dtype(first.dtype)
    loss = first.new_empty(first.shape[0], dtype=wide)
    if not rest[-1]:
        return loss, first.new_empty(0, dtype=dtype), first.new_empty(0, dtype=dtype), loss.new_empty(0)
    count = sum(each.shape[0] for each in columns)
    gradients = (first.new_empty((rows, first.shape[1]), dtype=dtype) for rows in (first.shape[0], count))
    return loss, *gradients, loss.new_empty(())


for _name, _fake in (("clip_fwd", _fake_clip_fwd), ("clip_bwd", _fake_clip_bwd), ("ranking", _fake_ranking)):
    torch.library.define(f"fastclr::{_name}", SCHEMAS[_name], tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"fastclr::{_name}", "default", _run(_name))
    torch.library.register_fake(f"fastclr::{_name}", _fake)

clip_fwd = torch.ops.fastclr.clip_fwd.default
clip_bwd = torch.ops.fastclr.clip_bwd.default
ranking = torch.ops.fastclr.ranking.default


class ClipFunction(torch.autograd.Function):
    """``(first, second, scale, options) -> s_ii, log-sum-exps of the others by row and column``; first derivatives."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, scale: Tensor, options: PairedOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``[N]`` each; see :func:`fastclr.losses.paired_blocks.clip_fwd`."""
        own, rows, columns, *kept = clip_fwd(first, second, scale, *options)
        # the rows as they came only tell once_differentiable what a second derivative would be with respect to
        ctx.save_for_backward(rows, columns, *kept, scale, first, second)
        ctx.options, ctx.dtypes = options, (first.dtype, second.dtype)
        return own, rows, columns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of both sides and the scale."""
        found = once_differentiable(partial(_clip_gradients, ctx.options), *grads, *ctx.saved_tensors)
        chosen = zip(found, ctx.needs_input_grad, strict=False)
        return *(grad if needed else None for grad, needed in chosen), None


def _clip_gradients(options: PairedOptions, *tensors: Tensor) -> tuple[Tensor, ...]:
    *rest, first, second = tensors
    dx, dy, dscale = clip_bwd(list(rest[:3]), *rest[3:], *options)
    return dx.to(first.dtype), dy.to(second.dtype), dscale


class RankingFunction(torch.autograd.Function):
    """``(scale, options, first, *columns) -> sum of the losses of the rows``; first derivatives only."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, options: PairedOptions, first: Tensor, *columns: Tensor) -> Tensor:
        """0-dim; see :func:`fastclr.losses.paired_blocks.ranking`."""
        loss, *gradients = ranking(first, list(columns), scale, *options, any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients, scale, first, *columns)
        total: Tensor = loss.sum()
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the scale, the rows and all columns: those of the forward, times the incoming number."""
        dscale, *found = once_differentiable(_ranking_gradients, grads[0], *ctx.saved_tensors)
        needed = ctx.needs_input_grad
        chosen = zip(found, needed[2:], strict=True)
        return dscale if needed[0] else None, None, *(rows if need else None for rows, need in chosen)


def _ranking_gradients(grad: Tensor, dx: Tensor, dy: Tensor, dscale: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    _, first, *columns = tensors
    factor = grad.to(dx.dtype)
    parts = (dy * factor).split([each.shape[0] for each in columns])
    sides = (part.to(each.dtype) for part, each in zip(parts, columns, strict=True))
    return dscale * grad, (dx * factor).to(first.dtype), *sides
