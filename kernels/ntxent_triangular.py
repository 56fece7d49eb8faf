"""The triangular forward: a square matrix of logits is symmetric, so each tile serves its rows and its columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .numerics import LOG2E, fixed_shift, shift_applies
from .tile_table import Tile, tiles_for, triangular_chunk
from .tiles import count_tiles, device_guard, dot_precision, load_rows, nth_tile, special_tiles, wide_products


# adds a tile to the sums of its rows, in memory, and of its columns, in registers. two rows share an element of the
# column sums: in the tensor cores' layout rows r and r + 8 belong to one thread
@triton.jit
def add_tile(column_sum, sums, first_row, p, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    tl.atomic_add(sums + first_row + tl.arange(0, BLOCK_M), tl.sum(p, axis=1), sem="relaxed")
    return column_sum + tl.sum(tl.reshape(p, (BLOCK_M // 16, 2, 8, BLOCK_N)), axis=1)


# one program takes one column tile against a chunk of the row tiles above it. in the layout [rows, columns] a sum along
# a row stays within a few threads, so row sums are finished at every step, while column sums are accumulated
# elementwise and reduced once. the longest columns come first, so that all programs finish at about the same time
@triton.jit(do_not_specialize=["n", "tiles_per_chunk"])
def ntxent_triangular_kernel(
    z,
    temperature,
    sums,
    n,
    tiles_per_chunk,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    GUARDED: tl.constexpr,
):
    m = 2 * n
    first_col = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_N
    num_tiles = tl.cdiv(tl.minimum(first_col + BLOCK_N, m), BLOCK_M)
    begin = tl.program_id(1) * tiles_per_chunk
    end = tl.minimum(begin + tiles_per_chunk, num_tiles)
    if GUARDED:
        end = tl.where(shift_applies(temperature, m, False), end, begin)
    if begin >= end:
        return
    cols = first_col + tl.arange(0, BLOCK_N)
    # positives are n columns to the right of their row; every tile of a partial last column needs the mask
    ragged = first_col + BLOCK_N > m
    specials = special_tiles(
        begin,
        end,
        tl.where(ragged, begin, tl.maximum(first_col - n, 0) // BLOCK_M),
        tl.where(ragged, end, tl.cdiv(tl.maximum(first_col - n + BLOCK_N, 0), BLOCK_M)),
        first_col // BLOCK_M,
        num_tiles,
        end,
    )
    scale = 1.0 / tl.load(temperature) * LOG2E
    shift = fixed_shift(m)
    k = load_rows(z, first_col, 0, m, D, BLOCK_N, BLOCK_D, True)
    column_sum = tl.zeros([BLOCK_M // 16, 8, BLOCK_N], tl.float32)
    # without masks, each tile is summed while the tensor cores compute the next one; the first step adds zeros
    previous = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32) + tl.where(scale > 0.0, float("-inf"), float("inf"))
    previous_row = begin * 0
    for MASKED in tl.static_range(2):
        for i in tl.range(0, count_tiles(specials, MASKED), num_stages=1 if MASKED else None):
            first_row = nth_tile(i, specials, MASKED) * BLOCK_M
            if D <= BLOCK_D:
                q = load_rows(z, first_row, 0, m, D, BLOCK_M, BLOCK_D, MASKED)
                s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            else:
                s = wide_products(z, z, first_row, m, first_col, m, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, True)
            if MASKED:
                distance = cols[None, :] - (first_row + tl.arange(0, BLOCK_M))[:, None]
                is_negative = (distance > 0) & (distance != n) & (cols < m)[None, :]
                p = tl.where(is_negative, tl.exp2(s * scale - shift), 0.0)
                column_sum = add_tile(column_sum, sums, first_row, p, BLOCK_M, BLOCK_N)
            else:
                p = tl.exp2(previous * scale - shift)
                column_sum = add_tile(column_sum, sums, previous_row, p, BLOCK_M, BLOCK_N)
                previous = s
                previous_row = first_row
        if not MASKED:
            p = tl.exp2(previous * scale - shift)
            column_sum = add_tile(column_sum, sums, previous_row, p, BLOCK_M, BLOCK_N)
    tl.atomic_add(sums + cols, tl.sum(tl.sum(column_sum, axis=0), axis=0), sem="relaxed")


def ntxent_triangular(
    z: torch.Tensor, temperature: torch.Tensor, precision: str, guarded: bool, *, tile: Tile | None = None
) -> torch.Tensor:
    """``sum_j exp(s_ij - c)`` over the negatives of every row of contiguous ``z [m, D]``, fp32 ``[1, m]``."""
    m, width = z.shape
    tile = tile or tiles_for(z.device, z.dtype, precision, width).triangular
    column_tiles = triton.cdiv(m, tile.block_n)
    chunk = triangular_chunk(z.device, tile, m)
    chunks = triton.cdiv(triton.cdiv(m, tile.block_m), chunk)
    # padded: the kernel adds zeros to the rows beyond the last one of a partial tile
    sums = torch.zeros((1, column_tiles * tile.block_n), dtype=torch.float32, device=z.device)[:, :m]
    with device_guard(z):
        ntxent_triangular_kernel[(column_tiles, chunks)](
            z,
            temperature,
            sums,
            m // 2,
            chunk,
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            PRECISION=dot_precision(z, precision),
            GUARDED=guarded,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return sums
