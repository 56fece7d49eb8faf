"""Tiles that the kernels share: which a program visits, how it loads them, and what launchers need on the host."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

# precisions that round the rows of ``lse`` and ``softplus_pairs``
ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_guard(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Launch on the device of ``tensor``, which need not be the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def dot_precision(tensor: torch.Tensor, precision: str) -> str:
    """The ``input_precision`` of ``tl.dot`` for tiles of this dtype: only fp32 tiles offer a choice."""
    return precision if tensor.dtype == torch.float32 else "ieee"


# the view and the first pair of a row tile. a row tile does not span both views, so its positives are one band of
# columns
@triton.jit
def row_tile(index, n, BLOCK_M: tl.constexpr):
    tiles_per_view = tl.cdiv(n, BLOCK_M)
    view = index // tiles_per_view
    return view, (index - view * tiles_per_view) * BLOCK_M


# the column tiles of [begin, end) that need a mask, as three runs (start, count) in ascending order: [a, a_end),
# [b, b_end) and everything from ``ragged`` on. arguments may overlap or lie outside; the runs returned are disjoint and
# inside
@triton.jit
def special_tiles(begin, end, a, a_end, b, b_end, ragged):
    b = tl.maximum(b, a_end)
    b_end = tl.maximum(b_end, b)
    ragged = tl.maximum(ragged, b_end)
    a = tl.minimum(tl.maximum(a, begin), end)
    a_end = tl.minimum(tl.maximum(a_end, begin), end)
    b = tl.minimum(tl.maximum(b, begin), end)
    b_end = tl.minimum(tl.maximum(b_end, begin), end)
    ragged = tl.minimum(tl.maximum(ragged, begin), end)
    return begin, end, a, a_end - a, b, b_end - b, ragged, end - ragged


# special_tiles for a row tile of the rectangular kernels: the band of the rows themselves and that of their positives
@triton.jit
def row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    first = offset + pair
    last = first + tl.minimum(BLOCK_M, n - pair) - 1
    return special_tiles(
        begin,
        end,
        first // BLOCK_N,
        last // BLOCK_N + 1,
        (first + n) // BLOCK_N,
        (last + n) // BLOCK_N + 1,
        num_cols // BLOCK_N,
    )


@triton.jit
def count_tiles(specials, MASKED: tl.constexpr):
    special = specials[3] + specials[5] + specials[7]
    return special if MASKED else specials[1] - specials[0] - special


# the i-th column tile that needs a mask, or the i-th that needs none
@triton.jit
def nth_tile(i, specials, MASKED: tl.constexpr):
    begin, _, a, a_count, b, b_count, ragged, _ = specials
    if MASKED:
        in_b = i - a_count
        in_ragged = in_b - b_count
        tile = tl.where(in_b < 0, a + i, tl.where(in_ragged < 0, b + in_b, ragged + in_ragged))
    else:
        tile = begin + i
        tile += tl.where(tile >= a, a_count, 0)
        tile += tl.where(tile >= b, b_count, 0)
    return tile


# rows [first, first + BLOCK_R) of a contiguous [rows, D] matrix, features [start, start + BLOCK_D)
@triton.jit
def load_rows(
    ptr, first, start, num_rows, D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr
):
    r = tl.arange(0, BLOCK_R)
    d = start + tl.arange(0, BLOCK_D)
    ptrs = ptr + first.to(tl.int64) * D + (r[:, None] * D + d[None, :])
    if MASKED and D % BLOCK_D != 0:
        tile = tl.load(ptrs, mask=((first + r) < num_rows)[:, None] & (d < D)[None, :], other=0.0)
    elif MASKED:
        tile = tl.load(ptrs, mask=((first + r) < num_rows)[:, None], other=0.0)
    elif D % BLOCK_D != 0:
        tile = tl.load(ptrs, mask=(d < D)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs)
    return tile


# the products of a row tile and a column tile that are too wide to hold, feature chunk by feature chunk
@triton.jit
def wide_products(
    row_ptr,
    col_ptr,
    first_row,
    row_end,
    first_col,
    col_end,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    products = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_D):
        q = load_rows(row_ptr, first_row, start, row_end, D, BLOCK_M, BLOCK_D, True)
        k = load_rows(col_ptr, first_col, start, col_end, D, BLOCK_N, BLOCK_D, MASKED)
        products = tl.dot(q, tl.trans(k), products, input_precision=PRECISION)
    return products


# one number a column
@triton.jit
def load_columns(ptr, cols, num_cols, MASKED: tl.constexpr):
    return tl.load(ptr + cols, mask=cols < num_cols, other=0.0) if MASKED else tl.load(ptr + cols)
