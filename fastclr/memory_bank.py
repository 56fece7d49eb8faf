"""A queue of past embeddings as negatives (MoCo), with lightly's semantics, in O((N + K) D) memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastclr import blockwise
from fastclr.ops.once import once_differentiable


class MemoryBank(nn.Module):
    """The last K keys, as a ring. Starts as random unit vectors; a buffer that state_dict leaves out, as in lightly.

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020, and lightly.
    """

    bank: Tensor

    def __init__(self, size: int, dim: int) -> None:
        """Fill the bank from the global random number generator.

        Args:
            size: number of keys K.
            dim: length D of a key.
        """
        super().__init__()
        self.register_buffer("bank", nn.functional.normalize(torch.randn(size, dim), dim=1), persistent=False)
        self.position = 0

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrite the oldest keys. As in lightly, what does not fit before the end is dropped and the ring restarts.

        Args:
            keys: ``[N, D]``, converted to the bank's dtype.
        """
        room = len(self.bank) - self.position
        self.bank[self.position : self.position + len(keys)] = keys[:room].to(self.bank.dtype)
        self.position = self.position + len(keys) if len(keys) < room else 0

    def extra_repr(self) -> str:
        """Size and dimension."""
        return f"size={self.bank.shape[0]}, dim={self.bank.shape[1]}"


class QueueFunction(torch.autograd.Function):
    """``loss_i = log(1 + sum_j exp((<q_i, b_j> - <q_i, k_i>) / tau))``; the bank b gets no gradient."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, bank: Tensor, temperature: Tensor, precision: str) -> Tensor:
        """Loss ``[N]`` from queries and keys ``[N, D]`` and bank ``[K, D]`` of one dtype."""
        wide = blockwise.vector_dtype(queries.device)
        s_pos = torch.linalg.vecdot(queries.to(wide), keys.to(wide)) / temperature
        with blockwise.matrix_products(precision):
            negatives, _, _ = blockwise.sum_online(queries, bank, s_pos, temperature, -2 * len(queries), stats=False)
        loss = torch.logaddexp(negatives - s_pos, torch.zeros_like(s_pos))
        ctx.save_for_backward(queries, keys, bank, temperature, loss, s_pos + loss)
        ctx.precision = precision
        return loss.to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, Tensor, None]:
        """Gradients of queries, keys and temperature; the similarities are computed again, block by block."""
        compute = partial(_queue_gradients, precision=ctx.precision)
        with torch.autocast(grad.device.type, enabled=False):
            dqueries, dkeys, dtemperature = once_differentiable(compute, grad, *ctx.saved_tensors)
        return dqueries, dkeys, None, dtemperature, None


def _queue_gradients(grad: Tensor, *saved: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """``dq_i = w_i/tau [sum_j e^(s_ij - lse_i) b_j + (e^-loss_i - 1) k_i]``, ``dk_i = w_i/tau (e^-loss_i - 1) q_i``."""
    queries, keys, bank, temperature, loss, lse = saved
    pull = torch.expm1(-loss).to(keys.dtype)[:, None]
    # e^(s - lse) = e^(s - shift) e^(shift - lse), the second factor once per row
    shift = lse.to(keys.dtype)
    factor = (shift - lse).exp_().to(keys.dtype)[:, None]
    left, right = blockwise.logit_operands(queries, bank, temperature)
    dqueries = torch.zeros_like(keys)
    block = blockwise.block_size(len(bank), bank.dtype, bank.device)
    with blockwise.matrix_products(precision):
        for i, i_end, j, j_end in blockwise.tiles(len(queries), len(bank), block, triangular=False):
            share = torch.mm(left[i:i_end], right[j:j_end].T).sub_(shift[i:i_end, None]).exp_()
            dqueries[i:i_end].addmm_(share, bank[j:j_end])
    scale = grad[:, None] / temperature
    dqueries.mul_(factor).addcmul_(keys, pull).mul_(scale)
    return dqueries, queries * pull * scale, (dqueries * queries).sum() / -temperature
