"""InfoNCE over a queue of negatives in O((N + K) D) memory, on the blocks of contrast_blocks.py and tiles.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastclr.losses import contrast_blocks, tiles
from fastclr.losses.once_differentiable import once_differentiable


class QueueFunction(torch.autograd.Function):
    """``loss_i = log(1 + sum_j exp((<q_i, b_j> - <q_i, k_i>) / tau))``; the bank b gets no gradient."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, bank: Tensor, temperature: Tensor, precision: str) -> Tensor:
        """Loss ``[N]`` from queries and keys ``[N, D]`` and bank ``[K, D]``, all of one dtype."""
        wide = tiles.vector_dtype(queries.device)
        s_pos = torch.linalg.vecdot(queries.to(wide), keys.to(wide)) / temperature
        with tiles.matrix_products(precision):
            negatives, _, _ = contrast_blocks.sum_online(
                queries, bank, s_pos, temperature, -2 * len(queries), stats=False
            )
        loss = torch.logaddexp(negatives - s_pos, torch.zeros_like(s_pos))
        ctx.save_for_backward(queries, keys, bank, temperature, loss, s_pos + loss)
        ctx.precision = precision
        return loss.to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None]:
        """Gradients of queries, keys and temperature, from similarities recomputed block by block."""
        compute = partial(_queue_gradients, precision=ctx.precision)
        with torch.autocast(grad.device.type, enabled=False):
            dqueries, dkeys, dtemperature = once_differentiable(compute, grad, *ctx.saved_tensors)
        return dqueries, dkeys, None, dtemperature, None


def _queue_gradients(grad: Tensor, *saved: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """``dq_i = w_i/tau [sum_j e^(s_ij - lse_i) b_j + (e^-loss_i - 1) k_i]``, ``dk_i = w_i/tau (e^-loss_i - 1) q_i``."""
    queries, keys, bank, temperature, loss, lse = saved
    pull = torch.expm1(-loss).to(keys.dtype)[:, None]
    # e^(s - lse) = e^(s - shift) e^(shift - lse), where the second factor is computed once per row
    shift = lse.to(keys.dtype)
    factor = (shift - lse).exp_().to(keys.dtype)[:, None]
    left, right = tiles.logit_operands(queries, bank, temperature)
    dqueries = torch.zeros_like(keys)
    block = tiles.block_size(len(bank), bank.dtype, bank.device)
    with tiles.matrix_products(precision):
        for i, i_end, j, j_end in tiles.tiles(len(queries), len(bank), block, triangular=False):
            share = torch.mm(left[i:i_end], right[j:j_end].T).sub_(shift[i:i_end, None]).exp_()
            dqueries[i:i_end].addmm_(share, bank[j:j_end])
    scale = grad[:, None] / temperature
    dqueries.mul_(factor).addcmul_(keys, pull).mul_(scale)
    return dqueries, queries * pull * scale, (dqueries * queries).sum() / -temperature
