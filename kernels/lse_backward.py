"""The backward of the operator ``lse``: each tile of similarities is recomputed. No atomics, no matrix in memory."""

from __future__ import annotations

import math
from functools import partial

import torch
import triton
import triton.language as tl

from .numerics import FP16_LIFT, LOG2E, fixed_shift, shift_applies, shifts_to_launch
from .pair_masks import COLUMN_LIMIT, EXCLUDE, NO_LIMIT, ROW_LIMIT, counted, masked_tiles, narrowed
from .tile_table import Tile, dot_kind, split_columns, tiles_for
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


# one program takes BLOCK_M rows against the column tiles of one split, and sums w_ij k_j for BLOCK_OUT features, with
# w_ij = e^(s_ij) (row term + column term), either of which may be absent. with the fixed shift a term is a factor of
# the one exponential; else it has its own, relative to its log-sum-exp. column tiles that need no mask come first
@triton.jit(do_not_specialize=["n", "num_cols", "count", "offset", "tiles_per_split"])
def lse_bwd_kernel(
    q,
    k,
    scale,
    temperature,
    row_lse,
    row_factor,
    column_lse,
    column_factor,
    row_ids,
    column_ids,
    limit,
    partial,
    n,
    num_cols,
    count,
    offset,
    tiles_per_split,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    EXCLUDE: tl.constexpr,
    LIMIT: tl.constexpr,
    HAS_ROW: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    IS_ONLINE: tl.constexpr,
    GUARDED: tl.constexpr,
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
    row_limit = tl.load(limit + rows, mask=in_rows, other=0.0) if LIMIT == 1 else 0.0
    begin = tl.program_id(1) * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(num_cols, BLOCK_N))
    if GUARDED:
        applies = shift_applies(temperature, count, IS_ONLINE)
        end = tl.where(applies, end, begin)
        in_rows &= applies
    specials = masked_tiles(begin, end, pair, offset + view * 0, n, num_cols, EXCLUDE, LIMIT, BLOCK_M, BLOCK_N)
    out = tl.program_id(2) * BLOCK_OUT
    factor = tl.load(scale) * LOG2E

    tile = load_rows(q, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)
    shift = fixed_shift(count)
    if HAS_ROW:
        mine = tl.load(row_factor + rows, mask=in_rows, other=0.0)
        if IS_ONLINE:
            own_lse = tl.load(row_lse + rows, mask=in_rows, other=0.0) * LOG2E
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
            s *= factor
            if IS_ONLINE:
                w = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
                if HAS_ROW:
                    w += tl.exp2(s - own_lse[:, None]) * mine[:, None]
                if HAS_COLUMN:
                    other_lse = load_columns(column_lse, cols, num_cols, MASKED) * LOG2E
                    others = load_columns(column_factor, cols, num_cols, MASKED)
                    w += tl.exp2(s - other_lse[None, :]) * others[None, :]
            elif HAS_ROW and HAS_COLUMN:
                others = load_columns(column_factor, cols, num_cols, MASKED)
                w = tl.exp2(s - shift) * (mine[:, None] + others[None, :])
            elif HAS_ROW:
                w = tl.exp2(s - shift) * mine[:, None]
            else:
                w = tl.exp2(s - shift) * load_columns(column_factor, cols, num_cols, MASKED)[None, :]
            if MASKED:
                keep = counted(
                    s, cols, num_cols, self_col, positive_col, row_id, column_ids, row_limit, limit, EXCLUDE, LIMIT
                )
                w = tl.where(keep, w, 0.0)
            if columns.dtype == tl.float16:
                w *= FP16_LIFT
            acc = tl.dot(w.to(columns.dtype), columns, acc, input_precision=PRECISION)
    if tile.dtype == tl.float16:
        acc = acc / FP16_LIFT

    d = out + tl.arange(0, BLOCK_OUT)
    first = (tl.program_id(1).to(tl.int64) * (n * (2 if EXCLUDE == 2 else 1)) + first_row) * D
    offsets = tl.arange(0, BLOCK_M)[:, None] * D + d[None, :]
    tl.store(partial + first + offsets, acc, mask=in_rows[:, None] & (d < D)[None, :])


def lse_bwd(
    q: torch.Tensor,
    k: torch.Tensor | None,
    scale: torch.Tensor,
    row_ids: torch.Tensor | None,
    column_ids: torch.Tensor | None,
    limit: torch.Tensor | None,
    row_lse: torch.Tensor,
    row_grad: torch.Tensor,
    column_lse: torch.Tensor | None,
    column_grad: torch.Tensor | None,
    exclude: str,
    offset: int,
    wanted: str,
    shift: str,
    precision: str,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients ``scale W K`` and ``scale W^T Q`` with ``W_ij = e^(s_ij) (g_i e^(-lse_i) + g_j e^(-lse_j))``.

    Args:
        q, k, scale, row_ids, column_ids, limit, exclude, offset, shift, precision: as in `lse_fwd`.
        row_lse, row_grad: ``[n]``, from the forward, and its incoming gradient.
        column_lse, column_grad: ``[m]``, or None: W has the first term only. Without k the rows are the columns too.
        wanted: ``"q"``, ``"k"`` or ``"both"``.
        tile: overrides the tile table.
        splits: overrides the number of column splits.

    Returns:
        dq ``[n, D]`` and dk ``[m, D]``, fp32; ``[0, D]`` where it is not wanted.
    """
    rows = q.to(ROUNDED.get(precision, q.dtype)).contiguous()
    columns = rows if k is None else k.to(rows.dtype).contiguous()
    scale = scale.to(q.device, torch.float32)
    if k is None:
        column_lse, column_grad = row_lse, row_grad
    # factors of at most 1, so that tiny gradients do not underflow and half precision stays in range
    peak = torch.cat([row_grad if column_grad is None else torch.cat([row_grad, column_grad]), row_grad.new_zeros(1)])
    peak = peak.abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny)
    row_terms = (row_lse, row_grad / peak)
    column_terms = None
    if column_lse is not None and column_grad is not None:
        column_terms = (column_lse, column_grad / peak)
    limits = None if limit is None else (limit * math.log2(math.e)).float()
    gradient = partial(one_gradient, exclude=exclude, shift=shift, precision=precision, tile=tile, splits=splits)
    dq = dk = torch.zeros((0, q.shape[1]), dtype=torch.float32, device=q.device)
    if wanted != "k":
        kind = NO_LIMIT if limits is None else ROW_LIMIT
        dq = gradient(rows, columns, scale, row_terms, column_terms, row_ids, column_ids, limits, kind, offset)
        dq *= peak * scale
    if wanted != "q" and k is not None:
        kind = NO_LIMIT if limits is None else COLUMN_LIMIT
        dk = gradient(columns, rows, scale, column_terms, row_terms, column_ids, row_ids, limits, kind, -offset)
        dk *= peak * scale
    # two tensors: an operator must not return the same one twice
    return dq, dk.clone() if dk is dq else dk


Terms = tuple[torch.Tensor, torch.Tensor]


def one_gradient(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: torch.Tensor,
    row_terms: Terms | None,
    column_terms: Terms | None,
    row_ids: torch.Tensor | None,
    column_ids: torch.Tensor | None,
    limit: torch.Tensor | None,
    limit_kind: int,
    offset: int,
    *,
    exclude: str,
    shift: str,
    precision: str,
    tile: Tile | None,
    splits: int | None,
) -> torch.Tensor:
    """``W K`` fp32 ``[n, D]`` for contiguous rows in the dtype of the tiles; terms are log-sum-exps and gradients."""
    n, width = q.shape
    num_cols = k.shape[0]
    if n == 0 or num_cols == 0:
        return torch.zeros((n, width), dtype=torch.float32, device=q.device)
    if tile is None:
        table = tiles_for(q.device, q.dtype, precision, width).backward
        tile = narrowed(table, exclude, limit_kind, dot_kind(q.dtype, precision))
    block_out = tile.block_d if width <= tile.block_d else tile.block_out
    chunks = triton.cdiv(width, block_out)
    views = 2 if exclude == "pair" else 1
    row_tiles = views * triton.cdiv(n // views, tile.block_m)
    splits, tiles_per_split = split_columns(q.device, tile, row_tiles * chunks, num_cols, splits)
    partial = torch.empty((splits, n, width), dtype=torch.float32, device=q.device)
    launches = shifts_to_launch(shift)
    temperature = scale.reciprocal()
    with device_guard(q):
        for launch in launches:
            is_online = launch == "online"
            own_lse, own = launch_terms(row_terms, max(n, num_cols), is_online, partial)
            other_lse, other = launch_terms(column_terms, max(n, num_cols), is_online, partial)
            lse_bwd_kernel[(row_tiles, splits, chunks)](
                q,
                k,
                scale,
                temperature,
                own_lse,
                own,
                other_lse,
                other,
                q if row_ids is None else row_ids,
                q if column_ids is None else column_ids,
                partial if limit is None else limit,
                partial,
                n // views,
                num_cols,
                max(n, num_cols),
                offset,
                tiles_per_split,
                D=width,
                BLOCK_M=tile.block_m,
                BLOCK_N=tile.block_n,
                BLOCK_D=tile.block_d,
                BLOCK_OUT=block_out,
                PRECISION=dot_precision(q, precision),
                EXCLUDE=EXCLUDE[exclude],
                LIMIT=limit_kind,
                HAS_ROW=row_terms is not None,
                HAS_COLUMN=column_terms is not None,
                IS_ONLINE=is_online,
                GUARDED=len(launches) > 1,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
    return partial[0] if splits == 1 else partial.sum(0)


def launch_terms(
    terms: Terms | None, count: int, is_online: bool, unused: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exps and factors as the kernel reads them; where nothing counts, both are 0."""
    if terms is None:
        return unused, unused
    lse, grad = terms
    empty = lse == -math.inf
    lse = lse.masked_fill(empty, 0.0)
    if not is_online:
        grad = grad * torch.exp(0.5 * math.log(count) - lse)
    return lse.float().contiguous(), grad.masked_fill(empty, 0.0).float().contiguous()
