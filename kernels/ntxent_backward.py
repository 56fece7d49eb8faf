"""The backward: `ntxent_bwd` and its kernel, which recomputes each tile of logits. No atomics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .ntxent_project import ntxent_project
from .numerics import FP16_LIFT, LOG2E, fixed_shift, shift_applies, shifts_to_launch
from .pair_masks import negatives
from .tile_table import Tile, split_columns, tiles_for
from .tiles import (
    count_tiles,
    device_guard,
    dot_precision,
    load_columns,
    load_rows,
    nth_tile,
    row_tile,
    row_tile_specials,
    wide_products,
)

# a multiple of every block_n
BLOCK_COLUMNS = 1024


# factor_j = w_j exp(c - lse_j) of every column: with the fixed shift a pair of rows then costs a single exponential,
# exp(s_ij - c) (factor_i + factor_j). padding columns up to a full block get factor 0
@triton.jit(do_not_specialize=["num_cols"])
def ntxent_factor_kernel(lse, weight, factor, num_cols, HAS_WEIGHT: tl.constexpr, BLOCK_N: tl.constexpr):
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_cols = cols < num_cols
    value = tl.exp2(fixed_shift(num_cols) - tl.load(lse + cols, mask=in_cols, other=float("inf")) * LOG2E)
    if HAS_WEIGHT:
        value *= tl.load(weight + cols, mask=in_cols, other=0.0)
    tl.store(factor + cols, value)


def ntxent_factor(lse: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """``w_j exp(c - lse_j)``, fp32 ``[M]``, zero-padded to a multiple of ``BLOCK_COLUMNS``; no weight means ones."""
    blocks = triton.cdiv(len(lse), BLOCK_COLUMNS)
    factor = torch.empty((blocks * BLOCK_COLUMNS,), dtype=torch.float32, device=lse.device)
    ntxent_factor_kernel[(blocks,)](
        lse,
        lse if weight is None else weight,
        factor,
        len(lse),
        HAS_WEIGHT=weight is not None,
        BLOCK_N=BLOCK_COLUMNS,
        num_warps=4,
    )
    return factor


# one program takes BLOCK_M rows of one view against the column tiles of one split, and sums p_ij k_j over the negatives
# for BLOCK_OUT features, with p_ij = w_i exp(s_ij - lse_i) + w_j exp(s_ij - lse_j). column tiles that need no mask come
# first
@triton.jit(do_not_specialize=["n", "num_cols", "offset", "tiles_per_split"])
def ntxent_bwd_kernel(
    z,
    columns,
    lse,
    factor,
    weight,
    temperature,
    partial,
    n,
    num_cols,
    offset,
    tiles_per_split,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_ONLINE: tl.constexpr,
    GUARDED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    view, pair = row_tile(tl.program_id(0), n, BLOCK_M)
    pairs = pair + tl.arange(0, BLOCK_M)
    in_rows = pairs < n
    first_row = view * n + pair
    row_end = (view + 1) * n
    self_col = offset + view * n + pairs
    positive_col = offset + (1 - view) * n + pairs
    begin = tl.program_id(1) * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(num_cols, BLOCK_N))
    if GUARDED:
        applies = shift_applies(temperature, num_cols, IS_ONLINE)
        end = tl.where(applies, end, begin)
        in_rows &= applies
    specials = row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M, BLOCK_N)
    out = tl.program_id(2) * BLOCK_OUT
    scale = 1.0 / tl.load(temperature) * LOG2E

    q = load_rows(z, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)
    shift = fixed_shift(num_cols)
    if IS_ONLINE:
        row_lse = tl.load(lse + self_col, mask=in_rows, other=0.0) * LOG2E
        if HAS_WEIGHT:
            row_weight = tl.load(weight + self_col, mask=in_rows, other=0.0)
    else:
        row_factor = tl.load(factor + self_col, mask=in_rows, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
    for MASKED in tl.static_range(2):
        for i in tl.range(0, count_tiles(specials, MASKED), num_stages=1 if MASKED else None):
            first_col = nth_tile(i, specials, MASKED) * BLOCK_N
            cols = first_col + tl.arange(0, BLOCK_N)
            if D <= BLOCK_D:
                k = load_rows(columns, first_col, 0, num_cols, D, BLOCK_N, BLOCK_D, MASKED)
                s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            else:
                k = load_rows(columns, first_col, out, num_cols, D, BLOCK_N, BLOCK_OUT, MASKED)
                s = wide_products(
                    z, columns, first_row, row_end, first_col, num_cols, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, MASKED
                )
            s *= scale
            if IS_ONLINE:
                column_lse = load_columns(lse, cols, num_cols, MASKED) * LOG2E
                row_part = tl.exp2(s - row_lse[:, None])
                column_part = tl.exp2(s - column_lse[None, :])
                if HAS_WEIGHT:
                    row_part *= row_weight[:, None]
                    column_part *= load_columns(weight, cols, num_cols, MASKED)[None, :]
                p = row_part + column_part
            else:
                p = tl.exp2(s - shift) * (row_factor[:, None] + tl.load(factor + cols)[None, :])
            if MASKED:
                is_negative = negatives(cols, self_col, positive_col)
                p = tl.where(is_negative & (cols < num_cols)[None, :], p, 0.0)
            if k.dtype == tl.float16:
                p *= FP16_LIFT
            acc = tl.dot(p.to(k.dtype), k, acc, input_precision=PRECISION)
    if q.dtype == tl.float16:
        acc = acc / FP16_LIFT

    d = out + tl.arange(0, BLOCK_OUT)
    first = (tl.program_id(1).to(tl.int64) * (2 * n) + first_row) * D
    offsets = tl.arange(0, BLOCK_M)[:, None] * D + d[None, :]
    tl.store(partial + first + offsets, acc, mask=in_rows[:, None] & (d < D)[None, :])


@dataclass(frozen=True)
class Launch:
    """The arguments of one launch of `ntxent_bwd_kernel`, or of a kernel that does the same."""

    z: torch.Tensor
    columns: torch.Tensor
    lse: torch.Tensor
    factor: torch.Tensor
    weight: torch.Tensor | None
    temperature: torch.Tensor
    partial: torch.Tensor
    offset: int
    tiles_per_split: int
    tile: Tile
    block_out: int
    precision: str
    is_online: bool
    guarded: bool

    @property
    def row_tiles(self) -> int:
        """Row tiles of both views."""
        return 2 * -(-(self.z.shape[0] // 2) // self.tile.block_m)


def launch_triton(a: Launch) -> None:
    """Launch `ntxent_bwd_kernel`."""
    width = a.z.shape[1]
    ntxent_bwd_kernel[(a.row_tiles, a.partial.shape[0], triton.cdiv(width, a.block_out))](
        a.z,
        a.columns,
        a.lse,
        a.factor,
        a.lse if a.weight is None else a.weight,
        a.temperature,
        a.partial,
        a.z.shape[0] // 2,
        a.columns.shape[0],
        a.offset,
        a.tiles_per_split,
        D=width,
        BLOCK_M=a.tile.block_m,
        BLOCK_N=a.tile.block_n,
        BLOCK_D=a.tile.block_d,
        BLOCK_OUT=a.block_out,
        PRECISION=dot_precision(a.z, a.precision),
        IS_ONLINE=a.is_online,
        GUARDED=a.guarded,
        HAS_WEIGHT=a.is_online and a.weight is not None,
        num_warps=a.tile.num_warps,
        num_stages=a.tile.num_stages,
    )


def ntxent_bwd(
    z0: torch.Tensor,
    z1: torch.Tensor,
    z: torch.Tensor,
    columns: torch.Tensor,
    inv_norm: torch.Tensor,
    positive: torch.Tensor,
    loss: torch.Tensor,
    lse: torch.Tensor,
    weight: torch.Tensor | None,
    scale: torch.Tensor,
    temperature: torch.Tensor,
    offset: int,
    normalize: bool,
    shift: str,
    precision: str,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
    launch: Callable[[Launch], None] = launch_triton,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient of ``scale * sum_j weight_j loss_j`` with respect to the rows of this process, and ``g_i . z_i``.

    ``g_i = (scale / tau) (sum_{j not i, not p(i)} (w_i e^{s_ij - lse_i} + w_j e^{s_ij - lse_j}) k_j
    + (w_i expm1(-loss_i) + w_p expm1(-loss_p)) z_p)``, ``du_i = (g_i - (g_i . z_i) z_i) / |u_i|``.

    Args:
        z0, z1: ``[n, D]``, the inputs of `ntxent_prologue`, any strides.
        z, columns, inv_norm, loss: as returned by `ntxent_prologue` and `ntxent_fwd`.
        positive: unused, ``loss`` carries what is needed of it.
        lse: ``[M]``, of every column.
        weight: ``[M]`` fp32, at most 1 in magnitude; None means ones.
        scale: scalar fp32 tensor.
        temperature, offset, shift, precision: see `ntxent_fwd`.
        normalize: as in `ntxent_prologue`.
        tile: overrides the tile table.
        splits: overrides the number of column splits.
        launch: launches the kernel that sums over the negatives.

    Returns:
        ``dz0``, ``dz1`` ``[n, D]``, contiguous, in the dtype of the inputs (zero for zero vectors if ``normalize``),
        ``dot [2n]`` fp32, whose sum over all processes times ``-1 / (2 tau)`` is dL/dtau.
    """
    width = z.shape[1]
    num_cols = columns.shape[0]
    z, columns = z.contiguous(), columns.contiguous()
    tile = tile or tiles_for(z.device, z.dtype, precision, width).backward
    block_out = tile.block_d if width <= tile.block_d else tile.block_out
    chunks = triton.cdiv(width, block_out)
    row_tiles = 2 * triton.cdiv(z.shape[0] // 2, tile.block_m)
    splits, tiles_per_split = split_columns(z.device, tile, row_tiles * chunks, num_cols, splits)
    partial = torch.empty((splits, *z.shape), dtype=torch.float32, device=z.device)
    launches = shifts_to_launch(shift)
    with device_guard(z):
        for kind in launches:
            is_online = kind == "online"
            factor = lse if is_online else ntxent_factor(lse, weight)
            launch(
                Launch(
                    z,
                    columns,
                    lse,
                    factor,
                    weight,
                    temperature,
                    partial,
                    offset,
                    tiles_per_split,
                    tile,
                    block_out,
                    precision,
                    is_online,
                    guarded=len(launches) > 1,
                )
            )
    return ntxent_project(partial, z0, z1, inv_norm, loss, weight, scale, temperature, offset, normalize)
