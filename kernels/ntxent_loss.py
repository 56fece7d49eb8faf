"""The last step of every forward: from sums over the negatives to loss and log-sum-exp of each row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .numerics import LN2, LOWEST, fixed_shift, shift_applies, softplus
from .tiles import device_guard

BLOCK_ROWS = 128


# loss and lse of rows from row_sum = sum_j exp2(s_ij - row_max) over the negatives and the positive logit in natural
# units
@triton.jit
def store_loss(loss, lse, rows, in_rows, row_max, row_sum, positive_logit):
    row_loss = softplus((row_max + tl.log2(row_sum)) * LN2 - positive_logit)
    tl.store(loss + rows, row_loss, mask=in_rows)
    tl.store(lse + rows, positive_logit + row_loss, mask=in_rows)


# one program takes BLOCK_M rows and merges the partial sums of all splits, in order
@triton.jit(do_not_specialize=["n", "num_cols", "splits"])
def ntxent_loss_kernel(
    partial_max,
    partial_sum,
    positive,
    temperature,
    loss,
    lse,
    n,
    num_cols,
    splits,
    IS_ONLINE: tl.constexpr,
    GUARDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = rows < 2 * n
    if GUARDED:
        in_rows &= shift_applies(temperature, num_cols, IS_ONLINE)
    offsets = rows.to(tl.int64)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = row_sum + (LOWEST if IS_ONLINE else fixed_shift(num_cols))
    for _ in range(0, splits):
        part = tl.load(partial_sum + offsets, mask=in_rows, other=0.0)
        if IS_ONLINE:
            part_max = tl.load(partial_max + offsets, mask=in_rows, other=LOWEST)
            new_max = tl.maximum(row_max, part_max)
            row_sum *= tl.exp2(row_max - new_max)
            part *= tl.exp2(part_max - new_max)
            row_max = new_max
        row_sum += part
        offsets += 2 * n
    tau = tl.load(temperature)
    positive_logit = tl.load(positive + tl.where(rows < n, rows, rows - n), mask=in_rows, other=0.0) / tau
    store_loss(loss, lse, rows, in_rows, row_max, row_sum, positive_logit)


def ntxent_loss(
    partial_max: torch.Tensor | None,
    partial_sum: torch.Tensor,
    positive: torch.Tensor,
    temperature: torch.Tensor,
    loss: torch.Tensor,
    lse: torch.Tensor,
    num_cols: int,
    guarded: bool,
) -> None:
    """Write ``loss`` and ``lse`` ``[m]`` from ``partial_sum [splits, m]``; no ``partial_max`` means the fixed shift."""
    splits, m = partial_sum.shape
    with device_guard(loss):
        ntxent_loss_kernel[(triton.cdiv(m, BLOCK_ROWS),)](
            partial_sum if partial_max is None else partial_max,
            partial_sum,
            positive,
            temperature,
            loss,
            lse,
            m // 2,
            num_cols,
            splits,
            IS_ONLINE=partial_max is not None,
            GUARDED=guarded,
            BLOCK_M=BLOCK_ROWS,
            num_warps=4,
        )
