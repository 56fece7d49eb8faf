"""Normalisation in one pass: unit rows in the dtype of the tiles, 1/|u| and the positives' dot products in fp32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .numerics import MAX_INV_NORM, MIN_NORM
from .tile_table import dot_kind, rows_tile
from .tiles import device_guard


# u / |u| and 1 / |u| of whole rows, first scaled by the largest element: fp32 cannot hold the squares of 1e25 or 1e-25
@triton.jit
def unit_rows(u):
    largest = tl.max(tl.abs(u), axis=1)
    unit = tl.where(largest > 0.0, largest, 1.0)
    u = u / unit[:, None]
    length = tl.sqrt(tl.sum(u * u, axis=1))
    is_zero = unit * length <= MIN_NORM
    inv_length = 1.0 / tl.where(is_zero, 1.0, length)
    inv_norm = tl.where(is_zero, MAX_INV_NORM, inv_length / unit)
    return u * tl.where(is_zero, unit * MAX_INV_NORM, inv_length)[:, None], inv_norm


# one program takes BLOCK_M pairs, both views, all features
@triton.jit(do_not_specialize=["n"])
def ntxent_prologue_kernel(
    z0,
    z1,
    z,
    inv_norm,
    positive,
    n,
    stride_0n,
    stride_0d,
    stride_1n,
    stride_1d,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    pairs = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    in_rows = pairs < n
    mask = in_rows[:, None] & (d < D)[None, :]
    rows = pairs.to(tl.int64)
    feature = d.to(tl.int64)
    u0 = tl.load(z0 + rows[:, None] * stride_0n + feature[None, :] * stride_0d, mask=mask, other=0.0).to(tl.float32)
    u1 = tl.load(z1 + rows[:, None] * stride_1n + feature[None, :] * stride_1d, mask=mask, other=0.0).to(tl.float32)
    if NORMALIZE:
        u0, inv0 = unit_rows(u0)
        u1, inv1 = unit_rows(u1)
    else:
        inv0 = tl.full([BLOCK_M], 1.0, tl.float32)
        inv1 = tl.full([BLOCK_M], 1.0, tl.float32)
    out = z + rows[:, None] * D + d[None, :]
    tl.store(out, u0.to(z.dtype.element_ty), mask=mask)
    tl.store(out + n.to(tl.int64) * D, u1.to(z.dtype.element_ty), mask=mask)
    tl.store(inv_norm + rows, inv0, mask=in_rows)
    tl.store(inv_norm + n + rows, inv1, mask=in_rows)
    tl.store(positive + rows, tl.sum(u0 * u1, axis=1), mask=in_rows)


def ntxent_prologue(
    z0: torch.Tensor, z1: torch.Tensor, normalize: bool, precision: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise both views: ``z = u / max(|u|, 1e-12)``, ``1 / max(|u|, 1e-12)`` and the positive dot products.

    Args:
        z0: ``[n, D]`` bf16, fp16 or fp32, any strides.
        z1: like ``z0``.
        normalize: False leaves the rows as they are.
        precision: ``"bf16"`` stores fp32 inputs as bf16; every other value keeps the dtype of the inputs.

    Returns:
        ``z [2n, D]`` contiguous, ``inv_norm [2n]`` fp32, ``positive [n]`` fp32 (from the inputs, not rounded ``z``).

    Raises:
        TypeError: the dtype is another one.
        ValueError: there are more features than a program can hold.
    """
    n, width = z0.shape
    dot_kind(z0.dtype, "ieee")
    tile = rows_tile(width)
    dtype = torch.bfloat16 if z0.dtype == torch.float32 and precision == "bf16" else z0.dtype
    z = torch.empty((2 * n, width), dtype=dtype, device=z0.device)
    inv_norm = torch.empty((2 * n,), dtype=torch.float32, device=z0.device)
    positive = torch.empty((n,), dtype=torch.float32, device=z0.device)
    with device_guard(z0):
        ntxent_prologue_kernel[(triton.cdiv(n, tile.block_m),)](
            z0,
            z1,
            z,
            inv_norm,
            positive,
            n,
            *z0.stride(),
            *z1.stride(),
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_D=tile.block_d,
            NORMALIZE=normalize,
            num_warps=tile.num_warps,
        )
    return z, inv_norm, positive
