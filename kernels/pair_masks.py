"""Which pairs the kernels leave out, and which column tiles need a mask for it."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from .tile_table import Tile
from .tiles import row_tile_specials, special_tiles

# kinds of exclusion, compile-time constants of the kernels
EXCLUDE = {"nothing": 0, "self": 1, "pair": 2, "equal": 3, "other": 4, "different": 5}
# limits belong to nothing, the rows or the columns
NO_LIMIT, ROW_LIMIT, COLUMN_LIMIT = 0, 1, 2


def narrower(tile: Tile) -> Tile:
    """The tile with half the columns."""
    return replace(tile, block_n=max(16, tile.block_n // 2))


def narrowed(tile: Tile, exclude: str, limit_kind: int, kind: str) -> Tile:
    """The tile of the table, smaller where the registers of its masks would spill.

    Args:
        tile: of NT-Xent's kernels.
        exclude: a key of `EXCLUDE`.
        limit_kind: whether limits are those of rows or columns, or absent.
        kind: of the dot products, see `tile_table.dot_kind`.
    """
    every = EXCLUDE[exclude] >= 3 or limit_kind != NO_LIMIT
    if every or kind == "tf32x3":
        tile = narrower(tile)
    if every and kind != "half":
        rows = max(16, tile.block_m // 2)
        warps = max(4, rows * tile.block_n // 64)  # two elements a thread: with one, ptxas counts on too few registers
        tile = replace(tile, block_m=rows, num_warps=min(tile.num_warps, warps))
    return tile


# the column tiles of [begin, end) that need a mask: the bands of self and positive, and a ragged last tile; with ids or
# limits, all of them
@triton.jit
def masked_tiles(
    begin,
    end,
    pair,
    offset,
    n,
    num_cols,
    EXCLUDE: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    first = offset + pair
    last = first + tl.minimum(BLOCK_M, n - pair) - 1
    ragged = num_cols // BLOCK_N
    if EXCLUDE >= 3 or LIMIT != 0:
        tiles = special_tiles(begin, end, begin, end, end, end, end)
    elif EXCLUDE == 2:
        tiles = row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M, BLOCK_N)
    elif EXCLUDE == 1:
        tiles = special_tiles(begin, end, first // BLOCK_N, last // BLOCK_N + 1, begin, begin, ragged)
    else:
        tiles = special_tiles(begin, end, begin, begin, begin, begin, ragged)
    return tiles


# the pairs of NT-Xent: all but the row itself and its positive
@triton.jit
def negatives(cols, self_col, positive_col):
    return (cols[None, :] != self_col[:, None]) & (cols[None, :] != positive_col[:, None])


# which elements of a tile count: also NaN, which must reach the result. limits are in units of ln 2, as s is; ids and
# limits of rows past the end may be anything
@triton.jit
def counted(
    s,
    cols,
    num_cols,
    self_col,
    positive_col,
    row_id,
    column_ids,
    row_limit,
    limit,
    EXCLUDE: tl.constexpr,
    LIMIT: tl.constexpr,
):
    in_cols = cols < num_cols
    if EXCLUDE == 1 or EXCLUDE == 4:
        keep = cols[None, :] != self_col[:, None]
    elif EXCLUDE == 2:
        keep = negatives(cols, self_col, positive_col)
    else:
        keep = tl.broadcast_to(in_cols[None, :], s.shape)
    keep &= in_cols[None, :]
    if EXCLUDE >= 3:
        ids = tl.load(column_ids + cols, mask=in_cols, other=0)
        if EXCLUDE == 3:
            keep &= row_id[:, None] != ids[None, :]
        else:
            keep &= row_id[:, None] == ids[None, :]
    if LIMIT == 1:
        keep &= ~(s > row_limit[:, None])
    elif LIMIT == 2:
        keep &= ~(s > tl.load(limit + cols, mask=in_cols, other=0.0)[None, :])
    return keep
