"""The forward of the operator ``lse``: log-sum-exps of rows against columns, and of columns against rows."""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl

from .numerics import LN2, LOG2E, LOWEST, add_tile, fixed_shift, shift_applies, shifts_to_launch
from .pair_masks import COLUMN_LIMIT, EXCLUDE, NO_LIMIT, ROW_LIMIT, counted, masked_tiles, narrowed
from .tile_table import Tile, dot_kind, split_columns, tiles_for
from .tiles import ROUNDED, count_tiles, device_guard, dot_precision, load_rows, nth_tile, row_tile, wide_products


# one program takes BLOCK_M rows (of one view, if the two views are stacked) against the column tiles of one split, and
# stores the log-sum-exp of what counts. column tiles that need no mask come first
@triton.jit(do_not_specialize=["n", "num_cols", "count", "offset", "tiles_per_split"])
def lse_fwd_kernel(
    q,
    k,
    scale,
    temperature,
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
    PRECISION: tl.constexpr,
    EXCLUDE: tl.constexpr,
    LIMIT: tl.constexpr,
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
    factor = tl.load(scale) * LOG2E

    tile = load_rows(q, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = row_sum + (LOWEST if IS_ONLINE else fixed_shift(count))
    for MASKED in tl.static_range(2):
        for i in tl.range(0, count_tiles(specials, MASKED), num_stages=1 if MASKED else None):
            first_col = nth_tile(i, specials, MASKED) * BLOCK_N
            if D <= BLOCK_D:
                columns = load_rows(k, first_col, 0, num_cols, D, BLOCK_N, BLOCK_D, MASKED)
                s = tl.dot(tile, tl.trans(columns), input_precision=PRECISION) * factor
            else:
                s = wide_products(
                    q, k, first_row, row_end, first_col, num_cols, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, MASKED
                )
                s *= factor
            if MASKED:
                cols = first_col + tl.arange(0, BLOCK_N)
                keep = counted(
                    s, cols, num_cols, self_col, positive_col, row_id, column_ids, row_limit, limit, EXCLUDE, LIMIT
                )
                s = tl.where(keep, s, float("-inf"))
            row_max, row_sum = add_tile(row_max, row_sum, s, IS_ONLINE)
    out = tl.program_id(1).to(tl.int64) * (n * (2 if EXCLUDE == 2 else 1)) + rows
    tl.store(partial + out, (row_max + tl.log2(row_sum)) * LN2, mask=in_rows)


def lse_fwd(
    q: torch.Tensor,
    k: torch.Tensor | None,
    scale: torch.Tensor,
    row_ids: torch.Tensor | None,
    column_ids: torch.Tensor | None,
    limit: torch.Tensor | None,
    exclude: str,
    offset: int,
    both: bool,
    shift: str,
    precision: str,
    deterministic: bool,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log sum_j exp(s_ij)`` of every row, and on request the same over the rows of every column.

    Args:
        q: ``[n, D]`` fp32.
        k: ``[m, D]`` like q, or None for q itself.
        scale: 0-dim, on the device or not, not 0.
        row_ids, column_ids: int64 ``[n]`` and ``[m]``, for "equal" and "other".
        limit: ``[n]`` or None.
        exclude: ``"nothing"``, ``"self"``, ``"pair"`` (without k or with the gathered rows), ``"equal"``, ``"other"``.
        offset: column of row 0, at least 0 (at most 0 for a rectangular call whose columns are this process's).
        both: also compute the second result, which is ``[0]`` otherwise.
        shift: ``"fixed"``, ``"online"`` or ``"runtime"`` (see `numerics`).
        precision: ``"ieee"``, ``"tf32"`` or ``"tf32x3"``; ``"bf16"`` or ``"fp16"`` round the rows to that dtype.
        deterministic: unused, the order of summation is always the same.
        tile: overrides the tile table.
        splits: overrides the number of column splits.

    Returns:
        fp32 ``[n]`` and ``[m]``; -inf where nothing counts.
    """
    rows = q.to(ROUNDED.get(precision, q.dtype)).contiguous()
    columns = rows if k is None else k.to(rows.dtype).contiguous()
    scale = scale.to(q.device, torch.float32)
    side = functools.partial(one_side, exclude=exclude, shift=shift, precision=precision, tile=tile, splits=splits)
    limits = None if limit is None else (limit * math.log2(math.e)).float()
    row_kind = NO_LIMIT if limits is None else ROW_LIMIT
    found = side(rows, columns, scale, row_ids, column_ids, limits, row_kind, offset)
    if not both or k is None:
        return found, found.new_empty(0)
    column_kind = NO_LIMIT if limits is None else COLUMN_LIMIT
    other = side(columns, rows, scale, column_ids, row_ids, limits, column_kind, -offset)
    return found, other


def one_side(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: torch.Tensor,
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
    """Log-sum-exps ``[n]`` of the rows of contiguous q over those of k, both in the dtype of the tiles."""
    n, width = q.shape
    num_cols = k.shape[0]
    if n == 0 or num_cols == 0:
        return torch.full((n,), -math.inf, dtype=torch.float32, device=q.device)
    if tile is None:
        table = tiles_for(q.device, q.dtype, precision, width).heavy_forward
        tile = narrowed(table, exclude, limit_kind, dot_kind(q.dtype, precision))
    views = 2 if exclude == "pair" else 1
    row_tiles = views * triton.cdiv(n // views, tile.block_m)
    splits, tiles_per_split = split_columns(q.device, tile, row_tiles, num_cols, splits)
    partial = torch.empty((splits, n), dtype=torch.float32, device=q.device)
    launches = shifts_to_launch(shift)
    temperature = scale.reciprocal()
    with device_guard(q):
        for launch in launches:
            lse_fwd_kernel[(row_tiles, splits)](
                q,
                k,
                scale,
                temperature,
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
                PRECISION=dot_precision(q, precision),
                EXCLUDE=EXCLUDE[exclude],
                LIMIT=limit_kind,
                IS_ONLINE=launch == "online",
                GUARDED=len(launches) > 1,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
    return partial[0] if splits == 1 else torch.logsumexp(partial, dim=0)
