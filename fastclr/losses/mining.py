"""Semi-hard negatives: for every row the most similar candidate within bounds, block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastclr.losses.tiles import block_size, fill_diagonal, matrix_products, tiles


@torch.no_grad()
def hardest(q: Tensor, k: Tensor, low: Tensor, high: Tensor, offset: int, precision: str) -> Tensor:
    """``argmax_j <q_i, k_j>`` over ``low_i < <q_i, k_j> < high_i`` and ``j != i + offset``; O(n + m) memory.

    Args:
        q: ``[n, D]`` rows, float32 or float64.
        k: ``[m, D]`` candidates.
        low, high: ``[n]`` bounds, themselves excluded.
        offset: candidate that is the positive of row 0.
        precision: of float32 matrix products.

    Returns:
        ``[n]`` indices, -1 where no candidate is within the bounds.
    """
    best = q.new_full((len(q),), -math.inf)
    index = torch.full((len(q),), -1, dtype=torch.int64, device=q.device)
    low, high = low.to(q.dtype), high.to(q.dtype)
    block = block_size(max(len(k), 1), q.dtype, q.device)
    for i, i_end, j, j_end in tiles(len(q), len(k), block, triangular=False):
        with matrix_products(precision, q.device):
            tile = torch.mm(q[i:i_end], k[j:j_end].T)
        tile.masked_fill_((tile <= low[i:i_end, None]) | (tile >= high[i:i_end, None]), -math.inf)
        fill_diagonal(tile, offset + i - j, -math.inf)
        value, place = tile.max(dim=1)
        better = value > best[i:i_end]
        best[i:i_end] = torch.where(better, value, best[i:i_end])
        index[i:i_end] = torch.where(better, place + j, index[i:i_end])
    return index
