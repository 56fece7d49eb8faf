"""The column tiles that a program visits with and without a mask, against brute force; the scalar functions."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from fastclr.kernels.numerics import expm1_neg, softplus
from fastclr.kernels.tiles import count_tiles, nth_tile, row_tile_specials


@triton.jit
def visited_kernel(out, begin, end, pair, offset, n, num_cols, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    specials = row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M, BLOCK_N)
    for MASKED in tl.static_range(2):
        for i in range(0, count_tiles(specials, MASKED)):
            tile = nth_tile(i, specials, MASKED)
            tl.store(out + tile, tl.load(out + tile) + (10 if MASKED else 1))


@pytest.mark.parametrize(("n", "ranks"), [(1, 1), (3, 1), (8, 2), (13, 3), (15, 1), (31, 2), (32, 1), (47, 1), (63, 1)])
@pytest.mark.parametrize(("block_m", "block_n"), [(16, 16), (16, 32), (32, 16)])
@pytest.mark.parametrize("splits", [1, 5])
def test_every_tile_once_and_masks_where_they_must_be(
    n: int, ranks: int, block_m: int, block_n: int, splits: int
) -> None:
    num_cols = ranks * 2 * n
    tiles = -(-num_cols // block_n)
    per_split = -(-tiles // splits)
    for offset in range(0, num_cols, 2 * n):
        for pair in range(0, n, block_m):
            visits = torch.zeros(tiles)
            for begin in range(0, tiles, per_split):
                end = min(begin + per_split, tiles)
                visited_kernel[(1,)](visits, begin, end, pair, offset, n, num_cols, BLOCK_M=block_m, BLOCK_N=block_n)
            special = {num_cols // block_n} if num_cols % block_n else set()
            for row in range(pair, min(pair + block_m, n)):
                special |= {(offset + row) // block_n, (offset + n + row) // block_n}
            assert visits.tolist() == [10 if tile in special else 1 for tile in range(tiles)]


@triton.jit
def functions_kernel(x, plus, minus):
    i = tl.arange(0, 64)
    tl.store(plus + i, softplus(tl.load(x + i)))
    tl.store(minus + i, expm1_neg(tl.abs(tl.load(x + i))))


def test_softplus_and_expm1_keep_relative_accuracy() -> None:
    x = torch.cat([torch.logspace(-9, 2, 32), -torch.logspace(-9, math.log10(80), 32)])
    plus, minus = torch.empty(64), torch.empty(64)
    functions_kernel[(1,)](x, plus, minus)
    torch.testing.assert_close(
        plus.double(), torch.nn.functional.softplus(x.double(), threshold=1e9), rtol=4e-7, atol=0
    )
    torch.testing.assert_close(minus.double(), torch.expm1(-x.abs().double()), rtol=4e-7, atol=0)
