"""Contrastive accuracy and entropy in one pass over the columns of the other view, half of all columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .numerics import LN2, LOG2E
from .tile_table import Tile, tiles_for
from .tiles import device_guard, dot_precision, load_rows, row_tile, wide_products


# one program takes BLOCK_M rows of one view. columns are [rank][view][pair], so the other view is one run of n columns
# per rank. a row starts from its fp32 positive; ``moment`` is sum_j exp2(x_j) x_j with x_j = s_ij - row_max <= 0
@triton.jit(do_not_specialize=["n", "ranks", "offset"])
def ntxent_stats_kernel(
    z,
    columns,
    positive,
    temperature,
    correct,
    entropy,
    n,
    ranks,
    offset,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    view, pair = row_tile(tl.program_id(0), n, BLOCK_M)
    pairs = pair + tl.arange(0, BLOCK_M)
    in_rows = pairs < n
    first_row = view * n + pair
    row_end = (view + 1) * n
    positive_col = offset + (1 - view) * n + pairs
    scale = 1.0 / tl.load(temperature) * LOG2E
    q = load_rows(z, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)

    positive_logit = tl.load(positive + pairs, mask=in_rows, other=0.0) * scale
    best_negative = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_max = positive_logit
    row_sum = tl.full([BLOCK_M], 1.0, tl.float32)
    moment = tl.zeros([BLOCK_M], tl.float32)
    tiles_per_run = tl.cdiv(n, BLOCK_N)
    for i in range(0, ranks * tiles_per_run):
        rank = i // tiles_per_run
        run = (2 * rank + 1 - view) * n
        first_col = run + (i - rank * tiles_per_run) * BLOCK_N
        if D <= BLOCK_D:
            k = load_rows(columns, first_col, 0, run + n, D, BLOCK_N, BLOCK_D, True)
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        else:
            s = wide_products(
                z, columns, first_row, row_end, first_col, run + n, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, True
            )
        cols = first_col + tl.arange(0, BLOCK_N)
        is_negative = (cols[None, :] != positive_col[:, None]) & (cols < run + n)[None, :]
        s = tl.where(is_negative, s * scale, float("-inf"))
        best_negative = tl.maximum(best_negative, tl.max(s, axis=1))
        new_max = tl.maximum(row_max, best_negative)
        drop = row_max - new_max
        decay = tl.exp2(drop)
        x = s - new_max[:, None]
        p = tl.exp2(x)
        moment = decay * (moment + drop * row_sum) + tl.sum(tl.where(is_negative, p * x, 0.0), axis=1)
        row_sum = decay * row_sum + tl.sum(p, axis=1)
        row_max = new_max
    rows = view * n + pairs
    tl.store(correct + rows, tl.where(positive_logit >= best_negative, 1.0, 0.0), mask=in_rows)
    tl.store(entropy + rows, (tl.log2(row_sum) - moment / row_sum) * LN2, mask=in_rows)


def ntxent_stats(
    z: torch.Tensor,
    columns: torch.Tensor,
    positive: torch.Tensor,
    temperature: torch.Tensor,
    offset: int,
    precision: str,
    *,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether the positive is the best of the other view's columns, and their softmax's entropy in nats, fp32 ``[m]``.

    Args:
        z, columns: contiguous ``[m, D]`` and ``[M, D]``; each process has m columns in the layout of this one's rows.
        positive: ``[m / 2]`` fp32, dot products of the positives.
        temperature: scalar fp32 tensor.
        offset: column of row 0.
        precision: see `ntxent_fwd`.
        tile: overrides the tile table.

    Raises:
        ValueError: M is not a multiple of m, so the view of a column is unknown.

    Source: google-research/simclr, ``contrast_acc`` and ``contrast_entropy`` of ``objective.py``.
    """
    m, width = z.shape
    if columns.shape[0] % m != 0:
        raise ValueError(
            f"stats need {m} rows on every process: expected a multiple of {m} columns, got {columns.shape[0]}"
        )
    tile = tile or tiles_for(z.device, z.dtype, precision, width).heavy_forward
    correct = torch.empty((m,), dtype=torch.float32, device=z.device)
    entropy = torch.empty_like(correct)
    with device_guard(z):
        ntxent_stats_kernel[(2 * triton.cdiv(m // 2, tile.block_m),)](
            z,
            columns,
            positive,
            temperature,
            correct,
            entropy,
            m // 2,
            columns.shape[0] // m,
            offset,
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            PRECISION=dot_precision(z, precision),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return correct, entropy
