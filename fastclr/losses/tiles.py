"""Tiles of a similarity matrix in plain PyTorch: their size, operands and masks; contrast_blocks.py calls this."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastclr.device import vector_dtype as vector_dtype

# size of one tile of similarities: on a CPU it stays in the L2 cache, elsewhere it is large enough to fill the device
CPU_TILE_BYTES = 1 << 20
DEVICE_TILE_BYTES = 1 << 26


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64, everything else is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def block_size(columns: int, dtype: torch.dtype, device: torch.device) -> int:
    """Edge of a square tile: the largest that fits the cache, reduced so that all blocks are about equal."""
    tile = CPU_TILE_BYTES if device.type == "cpu" else DEVICE_TILE_BYTES
    largest = math.isqrt(tile // dtype.itemsize)
    blocks = -(-columns // largest)
    return min(largest, (-(-columns // blocks) + 15) // 16 * 16)


def unshifted(temperature: Tensor, columns: int, dtype: torch.dtype, shift: str) -> bool:
    """Whether exp(s) can be summed without a shift: unit rows, and ``1/|tau| + ln M`` within the dtype's exponents.

    A temperature on another device counts as unsafe: reading it would synchronise.
    """
    if shift == "online" or temperature.device.type != "cpu":
        return False
    tau = abs(temperature.item())
    return 1.0 + tau * math.log(columns) <= -math.log(torch.finfo(dtype).tiny) * tau


def logit_operands(z: Tensor, columns: Tensor, temperature: Tensor, unit: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows and columns whose products are the similarities, ``sign(tau) z / sqrt|tau|`` and ``k / sqrt|tau|``.

    `unit` divides the similarities: ln 2 for ``exp2``, which takes a third to two thirds of the time of ``exp`` on a
    CPU. Splitting the temperature evenly makes the products symmetric to the last bit, so the backward recomputes
    exactly the similarities that the log-sum-exp used, whichever of the two mirrored tiles it visits.
    """
    root = (temperature.to(vector_dtype(z.device)).abs() * unit).rsqrt()
    high = root.to(z.dtype)
    # in two parts: the rounding error of one factor would be the same in every similarity, and add up
    low = (root - high).to(z.dtype)
    scaled = (columns * high).add_(columns * low)
    rows = scaled if z is columns else (z * high).add_(z * low)
    return rows * temperature.sign(), scaled


# what cuBLAS has of each precision; where it has none, the next better
CUBLAS = {"ieee": "ieee", "tf32x3": "ieee", "tf32": "tf32", "bf16": "tf32"}


@contextmanager
def matrix_products(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 at the precision that the caller asked for, on this type of device, until the context ends.

    "auto" follows ``torch.set_float32_matmul_precision``, as ``torch.mm`` does. On a CPU, oneDNN must not round to
    bfloat16 unless "bf16" permits it; on CUDA, cuBLAS computes "tf32" and "bf16" in TF32, "ieee" and "tf32x3" in
    float32. The setting is the process's own: another thread's products see it, too.
    """
    wanted = ""
    if device.type == "cuda":
        setting, wanted = torch.backends.cuda.matmul, CUBLAS.get(precision, "")
    elif device.type == "cpu":
        setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        if precision not in ("auto", "bf16") and setting.fp32_precision == "bf16":
            wanted = "ieee"
    if not wanted:
        yield
        return
    previous = setting.fp32_precision
    setting.fp32_precision = wanted
    try:
        yield
    finally:
        setting.fp32_precision = previous


def tiles(rows: int, columns: int, block: int, triangular: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield row and column bounds of the tiles, row by row; triangular: only those on and above the diagonal."""
    for i in range(0, rows, block):
        for j in range(i if triangular else 0, columns, block):
            yield i, min(i + block, rows), j, min(j + block, columns)


def fill_diagonal(tile: Tensor, lag: int, value: float) -> None:
    """Fill the elements with column - row == lag, if the tile has any."""
    if -tile.shape[0] < lag < tile.shape[1]:
        tile.diagonal(lag).fill_(value)


def fill_special(tile: Tensor, row: int, column: int, pairs: int, offset: int, value: float) -> None:
    """Fill the self and positive elements of the tile whose corner is (row, column)."""
    lag = offset + row - column
    fill_diagonal(tile, lag, value)
    first = min(max(pairs - row, 0), tile.shape[0])
    fill_diagonal(tile[:first], lag + pairs, value)
    fill_diagonal(tile[first:], lag + first - pairs, value)
