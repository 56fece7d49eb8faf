"""Log-sum-exp of every row over the columns of other ids, in blocks; O((n + m) D) memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.tiles import block_size, matrix_products, tiles, vector_dtype


class NegativesLSE(torch.autograd.Function):
    """``log sum_{id_j != id_i} exp(scale <q_i, k_j>)`` of every row; -inf where all columns have the id of the row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: Tensor, ids_q: Tensor, ids_k: Tensor, precision: str) -> Tensor:
        """One value per row, in the dtype of per-row values."""
        lse = torch.full((len(q),), -math.inf, dtype=vector_dtype(q.device), device=q.device)
        for i, i_end, _, _, tile in _logits(q, k, scale, ids_q, ids_k, precision):
            lse[i:i_end] = torch.logaddexp(lse[i:i_end], torch.logsumexp(tile, dim=1).to(lse.dtype))
        ctx.save_for_backward(q, k, scale, ids_q, ids_k, lse)
        ctx.precision = precision
        return lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, columns and scale."""
        q, k, scale, ids_q, ids_k, lse = ctx.saved_tensors
        compute = partial(_gradients, ids=(ids_q, ids_k), precision=ctx.precision)
        return (*once_differentiable(compute, grad, q, k, scale, lse), None, None, None)


def _logits(
    q: Tensor, k: Tensor, scale: Tensor, ids_q: Tensor, ids_k: Tensor, precision: str
) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """Bounds and logits of every tile, -inf between equal ids."""
    left = q * scale.to(q.dtype)
    block = block_size(max(len(k), 1), q.dtype, q.device)
    for i, i_end, j, j_end in tiles(len(q), len(k), block, triangular=False):
        with matrix_products(precision):
            tile = torch.mm(left[i:i_end], k[j:j_end].T)
        yield i, i_end, j, j_end, tile.masked_fill_(ids_q[i:i_end, None] == ids_k[j:j_end], -math.inf)


def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, scale: Tensor, lse: Tensor, ids: tuple[Tensor, Tensor], precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """``W_ij = g_i e^(s_ij - lse_i)``: ``scale W K``, ``scale W^T Q``, and for the scale ``sum_i <(W K)_i, q_i>``."""
    dq, dk = torch.zeros_like(q), torch.zeros_like(k)
    # e^(s - lse) = e^(s - shift) e^(shift - lse), where the second factor is computed once per row
    lse = lse.masked_fill(lse == -math.inf, 0.0)
    shift = lse.to(q.dtype)
    factor = (grad * (shift - lse).exp()).to(q.dtype)
    for i, i_end, j, j_end, tile in _logits(q, k, scale, *ids, precision):
        tile.sub_(shift[i:i_end, None]).exp_().mul_(factor[i:i_end, None])
        with matrix_products(precision):
            dq[i:i_end].addmm_(tile, k[j:j_end])
            dk[j:j_end].addmm_(tile.T, q[i:i_end])
    dscale = torch.linalg.vecdot(dq.to(scale.dtype), q.to(scale.dtype)).sum()
    return dq.mul_(scale.to(q.dtype)), dk.mul_(scale.to(q.dtype)), dscale
