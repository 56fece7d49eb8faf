"""The arithmetic that the kernels share: shifts of exponents, sums of exponentials, logarithms near 1.

Kernels keep logits in units of log 2, so that one fp32 multiply-add and one ``ex2`` give ``exp(s - c)``, where
``s_ij = <z_i, k_j> / tau`` and ``c = ln(M) / 2`` is the fixed shift. It neither under- nor overflows fp32
while ``2 / |tau| + ln(M) <= 175`` and the rows have unit length.

In kernels, constants go to the right of a tensor: Triton's interpreter does not unwrap one on the left.
"""

from __future__ import annotations

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


def shifts_to_launch(shift: str) -> tuple[str, ...]:
    """The kernels to launch for this ``shift``; for ``"runtime"`` both, one of which will find nothing to do."""
    if shift not in ("fixed", "online", "runtime"):
        raise ValueError(f"expected shift to be 'fixed', 'online' or 'runtime', got {shift!r}")
    return ("fixed", "online") if shift == "runtime" else (shift,)


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


# adds one tile to row_max and row_sum = sum_j exp2(s_ij - row_max); with the fixed shift row_max is that shift
@triton.jit
def add_tile(row_max, row_sum, s, IS_ONLINE: tl.constexpr):
    if IS_ONLINE:
        new_max = tl.maximum(row_max, tl.max(s, axis=1))
        row_sum *= tl.exp2(row_max - new_max)
        row_max = new_max
    row_sum += tl.sum(tl.exp2(s - row_max[:, None]), axis=1)
    return row_max, row_sum


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
