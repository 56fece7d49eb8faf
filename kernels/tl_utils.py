"""Device functions that the NT-Xent kernels share, and host helpers of their launchers.

Kernels keep logits in units of log 2, so that one fp32 multiply-add and one ``ex2`` give ``exp(s - c)``, where
``s_ij = <z_i, k_j> / tau`` and ``c = ln(M) / 2`` is the fixed shift. It neither under- nor overflows fp32
while ``2 / |tau| + ln(M) <= 175`` and the rows have unit length.

In kernels, constants go to the right of a tensor: Triton's interpreter does not unwrap one on the left.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# below every logit, yet finite: the difference of two of them is not NaN
LOWEST = tl.constexpr(-3.0e38)

# this power of two lifts the weights of fp16 tiles out of the subnormal range; the epilogue divides by it again
FP16_LIFT = tl.constexpr(16384.0)

# rows no longer than this count as zero vectors: without a direction, they get no gradient
MIN_NORM = tl.constexpr(1e-12)
MAX_INV_NORM = tl.constexpr(1e12)


def device_guard(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Launch on the device of ``tensor``, which need not be the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def shifts_to_launch(shift: str) -> tuple[str, ...]:
    """The kernels to launch for this ``shift``; for ``"runtime"`` both, one of which will find nothing to do."""
    if shift not in ("fixed", "online", "runtime"):
        raise ValueError(f"expected shift to be 'fixed', 'online' or 'runtime', got {shift!r}")
    return ("fixed", "online") if shift == "runtime" else (shift,)


def dot_precision(tensor: torch.Tensor, precision: str) -> str:
    """The ``input_precision`` of ``tl.dot`` for tiles of this dtype: only fp32 tiles offer a choice."""
    return precision if tensor.dtype == torch.float32 else "ieee"


@triton.jit
def fixed_shift(num_cols):
    return 0.5 * tl.log2(num_cols.to(tl.float32))


# whether the temperature calls for this shift. if only the device knows it (GUARDED), the kernels of both shifts are
# launched, and those of the wrong shift visit no tiles and store nothing. they do not return early, since a branch
# around the whole program costs registers. a NaN selects the online shift
@triton.jit
def shift_applies(temperature, num_cols, IS_ONLINE: tl.constexpr):
    bound = 2.0 / tl.abs(tl.load(temperature)) + tl.log2(num_cols.to(tl.float32)) * LN2
    safe = tl.where(bound <= 175.0, 1, 0)
    return safe == (0 if IS_ONLINE else 1)


# log(1 + y) for 0 <= y <= 1 to full relative accuracy: 2 atanh(t), t = y / (2 + y) <= 1/3
@triton.jit
def log1p_unit(y):
    t = y / (2.0 + y)
    u = t * t
    p = 1.0 / 15.0 + u * (1.0 / 17.0)
    p = 1.0 / 13.0 + u * p
    p = 1.0 / 11.0 + u * p
    p = 1.0 / 9.0 + u * p
    p = 1.0 / 7.0 + u * p
    p = 1.0 / 5.0 + u * p
    p = 1.0 / 3.0 + u * p
    return 2.0 * t * (1.0 + u * p)


# the same to 2e-7, without its division: a tile has many elements, and the tensor cores wait for them
@triton.jit
def log1p_fast(y):
    p = y * 0.0052326730002918605 - 0.029505159924744825
    p = p * y + 0.07822583566215373
    p = p * y - 0.1366323721136506
    p = p * y + 0.1910600351296978
    p = p * y - 0.24842981674505615
    p = p * y + 0.3331909680096879
    p = p * y - 0.4999949314662921
    p = p * y + 0.9999999698825031
    return y * p


# log(1 + exp(x)) without overflow, and accurate where the result is tiny
@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + log1p_unit(tl.exp(-tl.abs(x)))


# exp(-x) - 1 for x >= 0 to full relative accuracy, by a series where the difference would cancel
@triton.jit
def expm1_neg(x):
    p = 1.0 / 5040.0 - x * (1.0 / 40320.0)
    p = 1.0 / 720.0 - x * p
    p = 1.0 / 120.0 - x * p
    p = 1.0 / 24.0 - x * p
    p = 1.0 / 6.0 - x * p
    p = 0.5 - x * p
    series = -x * (1.0 - x * p)
    return tl.where(x < 0.35, series, tl.exp(-x) - 1.0)


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
