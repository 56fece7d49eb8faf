"""Products of the rows of two matrices, exact and with nothing kept but the rows themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.tiles import vector_dtype


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
