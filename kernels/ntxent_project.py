"""The last step of every backward: the positive term in fp32, the temperature, the Jacobian of the normalisation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .numerics import MAX_INV_NORM, expm1_neg
from .tile_table import rows_tile
from .tiles import device_guard, row_tile


# one program takes BLOCK_M rows of one view, all features: from the sums over the negatives of each split to du_i and
# g_i . z_i. the positive is recomputed in fp32 from the inputs: its weight nearly cancels, and the remainder must not
# carry the rounding of the tiles
@triton.jit(do_not_specialize=["n", "offset", "splits"])
def ntxent_project_kernel(
    partial,
    z0,
    z1,
    inv_norm,
    loss,
    weight,
    loss_scale,
    temperature,
    dz0,
    dz1,
    dot,
    n,
    offset,
    splits,
    stride_0n,
    stride_0d,
    stride_1n,
    stride_1d,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NORMALIZE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    view, pair = row_tile(tl.program_id(0), n, BLOCK_M)
    pairs = pair + tl.arange(0, BLOCK_M)
    in_rows = pairs < n
    d = tl.arange(0, BLOCK_D)
    mask = in_rows[:, None] & (d < D)[None, :]
    offsets = (view * n + pairs).to(tl.int64)[:, None] * D + d[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for _ in range(0, splits):
        acc += tl.load(partial + offsets, mask=mask, other=0.0)
        offsets += n.to(tl.int64) * (2 * D)

    is_first = view == 0
    own_n = tl.where(is_first, stride_0n, stride_1n).to(tl.int64)
    own_d = tl.where(is_first, stride_0d, stride_1d).to(tl.int64)
    other_n = tl.where(is_first, stride_1n, stride_0n).to(tl.int64)
    other_d = tl.where(is_first, stride_1d, stride_0d).to(tl.int64)
    rows = view * n + pairs
    partners = (1 - view) * n + pairs

    weight_own = tl.load(weight + offset + rows, mask=in_rows, other=0.0) if HAS_WEIGHT else 1.0
    weight_other = tl.load(weight + offset + partners, mask=in_rows, other=0.0) if HAS_WEIGHT else 1.0
    coefficient = weight_own * expm1_neg(tl.load(loss + rows, mask=in_rows, other=0.0))
    coefficient += weight_other * expm1_neg(tl.load(loss + partners, mask=in_rows, other=0.0))
    coefficient *= tl.load(inv_norm + partners, mask=in_rows, other=0.0)
    other = tl.load(tl.where(is_first, z1, z0) + pairs[:, None] * other_n + d[None, :] * other_d, mask=mask, other=0.0)
    g = (tl.load(loss_scale) / tl.load(temperature)) * (acc + coefficient[:, None] * other.to(tl.float32))

    inv_own = tl.load(inv_norm + rows, mask=in_rows, other=0.0)
    own = tl.load(tl.where(is_first, z0, z1) + pairs[:, None] * own_n + d[None, :] * own_d, mask=mask, other=0.0)
    z_own = own.to(tl.float32) * inv_own[:, None]
    g_dot_z = tl.sum(g * z_own, axis=1)
    if NORMALIZE:
        g = (g - g_dot_z[:, None] * z_own) * tl.where(inv_own >= MAX_INV_NORM, 0.0, inv_own)[:, None]
    out = tl.where(is_first, dz0, dz1) + pairs.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(out, g.to(dz0.dtype.element_ty), mask=mask)
    tl.store(dot + rows, g_dot_z, mask=in_rows)


def ntxent_project(
    partial: torch.Tensor,
    z0: torch.Tensor,
    z1: torch.Tensor,
    inv_norm: torch.Tensor,
    loss: torch.Tensor,
    weight: torch.Tensor | None,
    scale: torch.Tensor,
    temperature: torch.Tensor,
    offset: int,
    normalize: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``dz0``, ``dz1`` and ``dot`` of `ntxent_bwd` from ``partial [splits, 2n, D]``, the sums over the negatives."""
    splits, m, width = partial.shape
    dz0 = torch.empty(z0.shape, dtype=z0.dtype, device=z0.device)
    dz1 = torch.empty_like(dz0)
    dot = torch.empty((m,), dtype=torch.float32, device=z0.device)
    tile = rows_tile(width)
    with device_guard(partial):
        ntxent_project_kernel[(2 * triton.cdiv(m // 2, tile.block_m),)](
            partial,
            z0,
            z1,
            inv_norm,
            loss,
            loss if weight is None else weight,
            scale,
            temperature,
            dz0,
            dz1,
            dot,
            m // 2,
            offset,
            splits,
            *z0.stride(),
            *z1.stride(),
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_D=tile.block_d,
            NORMALIZE=normalize,
            HAS_WEIGHT=weight is not None,
            num_warps=tile.num_warps,
        )
    return dz0, dz1, dot
