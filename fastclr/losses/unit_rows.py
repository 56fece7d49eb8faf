"""Unit rows with their gradient, for the losses on the operator ``lse``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastclr.losses.contrast_blocks import row_lengths
from fastclr.losses.inputs import unit_rows
from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.tiles import compute_dtype, vector_dtype


class UnitRows(torch.autograd.Function):
    """``u / max(|u|, 1e-12)`` of rows ``[N, D]``, rounded once; rows no longer than 1e-12 get no gradient.

    float64 stays float64, everything else becomes float32. Keeps the result and one number a row for the backward.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Unit rows of the compute dtype."""
        wide = rows.to(vector_dtype(rows.device))
        length = row_lengths(wide, squares_fit=wide.dtype.itemsize > rows.dtype.itemsize)
        # literals: Dynamo with dynamic shapes makes an input of a global float, and fails at a function's second call
        inverse = length.clamp_min(1e-12).reciprocal()
        unit = (wide * inverse[:, None]).to(compute_dtype(rows.dtype))
        ctx.save_for_backward(unit, inverse.masked_fill(inverse >= 1e12, 0.0).to(unit.dtype))
        ctx.dtype = rows.dtype
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """``(g - <g, z> z) / |u|``."""
        (found,) = once_differentiable(partial(_project, dtype=ctx.dtype), grad, *ctx.saved_tensors)
        return found


def _project(grad: Tensor, unit: Tensor, inverse: Tensor, dtype: torch.dtype) -> tuple[Tensor]:
    dot = torch.linalg.vecdot(grad, unit)
    return ((grad - dot[:, None] * unit).mul_(inverse[:, None]).to(dtype),)


def comparable(rows: Tensor, normalize: bool, impl: str) -> Tensor:
    """The rows to compare: of unit length if normalised; float64 stays float64, everything else is float32."""
    if not normalize:
        return rows.to(compute_dtype(rows.dtype))
    if impl == "reference":
        return unit_rows(rows.to(compute_dtype(rows.dtype)))
    unit: Tensor = UnitRows.apply(rows)
    return unit
