"""The operator ``softplus_pairs``: sums over pairs of a function of their own logit, and gradients in the same pass."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import triton
import triton.language as tl

from .numerics import FP16_LIFT, LN2, LOG2E, log1p_fast
from .pair_masks import EXCLUDE, NO_LIMIT, counted, masked_tiles, narrowed, narrower
from .tile_table import Tile, Tiles, dot_kind, split_columns, tiles_for
from .tiles import (
    ROUNDED,
    count_tiles,
    device_guard,
    dot_precision,
    load_columns,
    load_rows,
    nth_tile,
    row_tile,
    wide_products,
)

# the pairs that do not count, by the pairs that do
LEFT_OUT = {"all": "nothing", "others": "self", "negatives": "pair", "same_id": "different", "same_id_others": "other"}


# f and f' of logits in units of ln 2 (the hinge: of 1). a pair that does not count has the logit -inf, hence 0 and 0
@triton.jit
def value_and_slope(s, HINGE: tl.constexpr):
    if HINGE:
        value = tl.maximum(s, 0.0, propagate_nan=tl.PropagateNan.ALL)
        slope = tl.where(s > 0.0, 1.0, 0.0)
    else:
        y = tl.exp2(-tl.abs(s))
        value = tl.maximum(s, 0.0) * LN2 + log1p_fast(y)
        share = 1.0 / (y + 1.0)
        slope = tl.where(s > 0.0, share, y * share)
    return value, slope


# one program takes BLOCK_M rows (of one view, if the two views are stacked) against the column tiles of one split. it
# sums f(s_ij), w f'(s_ij), and w f'(s_ij) k_j for BLOCK_OUT features; bias and w belong to the rows or to the columns.
# column tiles that need no mask come first
@triton.jit(do_not_specialize=["n", "num_cols", "offset", "tiles_per_split"])
def softplus_kernel(
    q,
    k,
    scale,
    bias,
    weight,
    row_ids,
    column_ids,
    loss,
    slope,
    gradient,
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
    EXCLUDE: tl.constexpr,
    HINGE: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_LOSS: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
):
    view, pair = row_tile(tl.program_id(0), n, BLOCK_M)
    pairs = pair + tl.arange(0, BLOCK_M)
    in_rows = pairs < n
    first_row = view * n + pair
    row_end = (view + 1) * n
    rows = view * n + pairs
    self_col = offset + rows
    positive_col = offset + (1 - view) * n + pairs
    row_id = tl.load(row_ids + rows, mask=in_rows, other=0) if EXCLUDE >= 3 else self_col
    begin = tl.program_id(1) * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(num_cols, BLOCK_N))
    specials = masked_tiles(begin, end, pair, offset + view * 0, n, num_cols, EXCLUDE, 0, BLOCK_M, BLOCK_N)
    out = tl.program_id(2) * BLOCK_OUT
    unit = 1.0 if HINGE else LOG2E
    factor = tl.load(scale) * unit
    if not BY_COLUMN:
        own_bias = tl.load(bias + rows, mask=in_rows, other=0.0) * unit
        if HAS_WEIGHT:
            own_weight = tl.load(weight + rows, mask=in_rows, other=0.0)

    tile = load_rows(q, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)
    row_loss = tl.zeros([BLOCK_M], tl.float32)
    row_slope = tl.zeros([BLOCK_M], tl.float32)
    if HAS_GRADIENT:
        acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
    for MASKED in tl.static_range(2):
        for i in tl.range(0, count_tiles(specials, MASKED), num_stages=1 if MASKED else None):
            first_col = nth_tile(i, specials, MASKED) * BLOCK_N
            cols = first_col + tl.arange(0, BLOCK_N)
            if D <= BLOCK_D:
                columns = load_rows(k, first_col, 0, num_cols, D, BLOCK_N, BLOCK_D, MASKED)
                s = tl.dot(tile, tl.trans(columns), input_precision=PRECISION)
            else:
                columns = load_rows(k, first_col, out, num_cols, D, BLOCK_N, BLOCK_OUT, MASKED)
                s = wide_products(
                    q, k, first_row, row_end, first_col, num_cols, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, MASKED
                )
            if BY_COLUMN:
                s = s * factor + (load_columns(bias, cols, num_cols, MASKED) * unit)[None, :]
            else:
                s = s * factor + own_bias[:, None]
            if MASKED:
                keep = counted(s, cols, num_cols, self_col, positive_col, row_id, column_ids, 0.0, bias, EXCLUDE, 0)
                s = tl.where(keep, s, float("-inf"))
            value, w = value_and_slope(s, HINGE)
            if HAS_LOSS:
                row_loss += tl.sum(value, axis=1)
            if HAS_GRADIENT:
                if HAS_WEIGHT and BY_COLUMN:
                    w *= load_columns(weight, cols, num_cols, MASKED)[None, :]
                elif HAS_WEIGHT:
                    w *= own_weight[:, None]
                row_slope += tl.sum(w, axis=1)
                if columns.dtype == tl.float16:
                    w *= FP16_LIFT
                acc = tl.dot(w.to(columns.dtype), columns, acc, input_precision=PRECISION)

    first = tl.program_id(1).to(tl.int64) * (n * (2 if EXCLUDE == 2 else 1))
    is_first_chunk = in_rows & (out == 0)
    if HAS_LOSS:
        tl.store(loss + first + rows, row_loss, mask=is_first_chunk)
    if HAS_GRADIENT:
        tl.store(slope + first + rows, row_slope, mask=is_first_chunk)
        if tile.dtype == tl.float16:
            acc = acc / FP16_LIFT
        d = out + tl.arange(0, BLOCK_OUT)
        offsets = tl.arange(0, BLOCK_M)[:, None] * D + d[None, :]
        tl.store(gradient + (first + first_row) * D + offsets, acc, mask=in_rows[:, None] & (d < D)[None, :])


def pair_tile(tiles: Tiles, exclude: str, has_gradient: bool, kind: str) -> Tile:
    """The tile for the pairs that do not count and a kind of dot product, smaller than lse's where it would spill."""
    tile = tiles.backward if has_gradient else tiles.heavy_forward
    if kind == "ieee" and has_gradient:
        return replace(tile, block_m=max(16, tile.block_m // 2))
    if EXCLUDE[exclude] >= 3:
        return narrowed(tile, exclude, NO_LIMIT, kind)
    return tile if kind == "tf32" and has_gradient else narrower(tile)


def softplus_pairs(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    ids_q: torch.Tensor | None,
    ids_k: torch.Tensor | None,
    weight: torch.Tensor | None,
    include: str,
    offset: int,
    by_column: bool,
    activation: str,
    precision: str,
    sides: int,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``loss_i = sum_{j included} f(s_ij)`` with ``s_ij = scale <q_i, k_j> + bias_i`` and, with weights, gradients.

    Args:
        q: ``[n, D]`` fp32, or rounded already to the dtype that precision names.
        k: ``[m, D]`` likewise.
        scale: 0-dim, on the device or not.
        bias: 0-dim, ``[n]``, or ``[m]`` with by_column; on the device.
        ids_q, ids_k: int64 ``[n]`` and ``[m]`` for includes of equal ids, else None.
        weight: ``[n]`` (``[m]`` with by_column) factors w of the pairs of a row (column), or None for ones.
        include: a key of `LEFT_OUT`, as in ``fastclr.losses.softplus_reference``.
        offset: column of row 0.
        by_column: bias and weight belong to the columns.
        activation: f, ``"softplus"`` or ``"hinge"``.
        precision: ``"ieee"``, ``"tf32"`` or ``"tf32x3"``; ``"bf16"`` or ``"fp16"`` round the rows to that dtype.
        sides: 0 for the loss only, 1 for the gradient of the rows, 2 for that of the columns too.
        tile: overrides the tile table.
        splits: overrides the number of column splits.

    Returns:
        fp32: loss ``[n]``; slope ``[n]``, ``sum_j w f'(s_ij)``; dq ``[n, D]``, ``sum_j w f'(s_ij) k_j``; dk ``[m, D]``,
        ``sum_i w f'(s_ij) q_i``. Both still lack the factor scale; what was not asked for is ``[0]``.
    """
    rows, columns = (x.to(ROUNDED.get(precision, x.dtype)).contiguous() for x in (q, k))
    scale = scale.to(q.device, torch.float32)
    owners = len(k) if by_column else len(q)
    shifts = bias.float().expand(owners).contiguous()
    peak = None
    if weight is not None:
        # factors of at most 1, so that tiny gradients do not underflow and half precision stays in range
        peak = torch.cat([weight.abs(), weight.new_zeros(1)]).amax().float().clamp_min(torch.finfo(torch.float32).tiny)
        weight = (weight / peak).float().contiguous()
    one_side = partial(
        pairs_of_rows,
        scale=scale,
        bias=shifts,
        weight=weight,
        exclude=LEFT_OUT[include],
        hinge=activation == "hinge",
        precision=precision,
        tile=tile,
        splits=splits,
    )
    loss, slope, dq = one_side(rows, columns, ids_q, ids_k, offset, by_column, True, sides > 0)
    dk = loss.new_empty(0)
    if sides > 1:
        _, _, dk = one_side(columns, rows, ids_k, ids_q, -offset, not by_column, False, True)
    if peak is not None:
        slope, dq, dk = slope * peak, dq * peak, dk * peak
    return loss, slope, dq, dk


def pairs_of_rows(
    q: torch.Tensor,
    k: torch.Tensor,
    row_ids: torch.Tensor | None,
    column_ids: torch.Tensor | None,
    offset: int,
    by_column: bool,
    has_loss: bool,
    has_gradient: bool,
    *,
    scale: torch.Tensor,
    bias: torch.Tensor,
    weight: torch.Tensor | None,
    exclude: str,
    hinge: bool,
    precision: str,
    tile: Tile | None,
    splits: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, slope and gradient of the rows of contiguous q, both in the dtype of the tiles; ``[0]`` if not wanted."""
    n, width = q.shape
    num_cols = k.shape[0]
    shapes = ((n,) if has_loss else (0,), (n,) if has_gradient else (0,), (n, width) if has_gradient else (0,))
    if n == 0 or num_cols == 0:
        return tuple(torch.zeros(shape, dtype=torch.float32, device=q.device) for shape in shapes)  # type: ignore[return-value]
    if tile is None:
        tiles = tiles_for(q.device, q.dtype, precision, width)
        tile = pair_tile(tiles, exclude, has_gradient, dot_kind(q.dtype, precision))
    block_out = tile.block_d if width <= tile.block_d or not has_gradient else tile.block_out
    chunks = triton.cdiv(width, block_out) if has_gradient else 1
    views = 2 if exclude == "pair" else 1
    row_tiles = views * triton.cdiv(n // views, tile.block_m)
    splits, tiles_per_split = split_columns(q.device, tile, row_tiles * chunks, num_cols, splits)
    found = [torch.empty((splits, *shape), dtype=torch.float32, device=q.device) for shape in shapes]
    with device_guard(q):
        softplus_kernel[(row_tiles, splits, chunks)](
            q,
            k,
            scale,
            bias,
            bias if weight is None else weight,
            q if row_ids is None else row_ids,
            q if column_ids is None else column_ids,
            *found,
            n // views,
            num_cols,
            offset,
            tiles_per_split,
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            BLOCK_OUT=block_out,
            PRECISION=dot_precision(q, precision),
            EXCLUDE=EXCLUDE[exclude],
            HINGE=hinge,
            BY_COLUMN=by_column,
            HAS_WEIGHT=weight is not None,
            HAS_LOSS=has_loss,
            HAS_GRADIENT=has_gradient,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    loss, slope, gradient = (x[0] if splits == 1 else x.sum(0) for x in found)
    return loss, slope, gradient
