"""Tile sizes of every kernel in one table, and the launch parameters that depend on the problem size.

Nothing here reads device memory or synchronises. ``python -m fastclr.kernels.tune`` times candidates for the table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Tile:
    """How one program splits its work: ``block_m`` rows against ``block_n`` columns, ``block_d`` features at a time.

    ``programs_per_sm`` programs fit on one multiprocessor. Where a row is wider than ``block_d``, a program of the
    backward computes ``block_out`` features of the result.
    """

    block_m: int
    block_n: int
    block_d: int
    num_warps: int
    num_stages: int = 1
    programs_per_sm: int = 1
    block_out: int = 0


@dataclass(frozen=True)
class Tiles:
    """The tiles of one row of the table; in ``triangular``, ``block_m`` must divide ``block_n``.

    ``stats`` and the forward of ``lse`` keep more registers than NT-Xent's forward: their tile, where it is another.
    """

    forward: Tile
    triangular: Tile
    backward: Tile
    stats: Tile | None = None

    @property
    def heavy_forward(self) -> Tile:
        """The tile of the statistics, and of the forward of ``lse`` and ``softplus_pairs``."""
        return self.stats or self.forward


# the normalising and the projecting kernel hold whole rows
WIDEST_ROW = 16384

# how fp32 rows can be multiplied
PRECISIONS = ("tf32", "tf32x3", "ieee")

# below this, launches cost more than the arithmetic the triangular forward saves: the rectangular one is used
TRIANGULAR_FROM_ROWS = 2048

# (architecture, kind of dot product, widest row) -> tiles. An entry also serves later architectures up to the next
# entry and narrower rows down to the next width; ANY serves all wider rows, ``block_d`` features at a time. The tiles
# of 80 must fit into the 99 KiB of shared memory of 8.6, 8.9 and 12.x. tests/compile_only checks registers and shared
# memory.
ANY = 0
# fmt: off
TABLE: dict[tuple[int, str, int], Tiles] = {
    (80, "half", 128): Tiles(Tile(128, 32, 128, 4, 3, 2), Tile(64, 128, 128, 4, 2, 2), Tile(128, 64, 128, 8, 3, 1),
                             Tile(128, 64, 128, 8, 3, 1)),
    (80, "half", 256): Tiles(Tile(128, 32, 256, 4, 2, 1), Tile(32, 128, 256, 4, 2, 1), Tile(64, 64, 256, 8, 2, 1),
                             Tile(64, 64, 256, 4, 2, 1)),
    (80, "half", ANY): Tiles(Tile(128, 64, 64, 8, 3, 1), Tile(64, 64, 64, 4, 3, 2), Tile(64, 64, 64, 8, 3, 1, 256)),
    (80, "tf32", 128): Tiles(Tile(128, 32, 128, 4, 2, 1), Tile(32, 128, 128, 4, 2, 1), Tile(64, 32, 128, 4, 2, 1),
                             Tile(64, 64, 128, 4, 2, 1)),
    (80, "tf32", ANY): Tiles(Tile(64, 64, 32, 4, 3, 2), Tile(64, 64, 32, 4, 3, 2), Tile(64, 32, 32, 8, 3, 1, 256)),
    (80, "tf32x3", ANY): Tiles(Tile(128, 64, 32, 8, 3, 1), Tile(32, 64, 32, 4, 3, 2), Tile(64, 32, 16, 8, 3, 1, 128)),
    (80, "ieee", ANY): Tiles(Tile(64, 64, 16, 4, 3, 2), Tile(64, 64, 16, 8, 3, 1), Tile(32, 32, 32, 8, 2, 1, 256)),
    (90, "half", 128): Tiles(Tile(256, 64, 128, 8, 3, 2), Tile(64, 128, 128, 4, 3, 2), Tile(128, 128, 128, 8, 3, 1),
                             Tile(128, 128, 128, 8, 3, 1)),
    (90, "half", 256): Tiles(Tile(128, 128, 256, 8, 2, 1), Tile(128, 128, 256, 8, 2, 1), Tile(128, 64, 256, 8, 3, 1),
                             Tile(128, 64, 256, 8, 3, 1)),
    (90, "half", ANY): Tiles(Tile(128, 128, 64, 8, 4, 1), Tile(128, 128, 64, 8, 4, 1), Tile(128, 64, 64, 8, 3, 1, 128)),
    (90, "tf32", 128): Tiles(Tile(128, 128, 128, 8, 2, 1), Tile(128, 128, 128, 8, 2, 1), Tile(128, 64, 128, 8, 3, 1),
                             Tile(128, 64, 128, 8, 3, 1)),
    (90, "tf32", ANY): Tiles(Tile(128, 128, 32, 8, 3, 1), Tile(128, 128, 32, 8, 3, 1), Tile(64, 64, 32, 8, 3, 1, 256)),
    (90, "tf32x3", ANY): Tiles(Tile(128, 64, 32, 8, 3, 1), Tile(64, 64, 32, 4, 3, 2), Tile(64, 32, 32, 4, 3, 2, 128)),
    (90, "ieee", ANY): Tiles(Tile(64, 64, 16, 8, 3, 1), Tile(64, 64, 16, 8, 3, 1), Tile(64, 32, 32, 8, 2, 1, 256)),
    (100, "half", 128): Tiles(Tile(128, 128, 128, 8, 3, 1), Tile(64, 128, 128, 8, 3, 1), Tile(128, 128, 128, 8, 3, 1)),
    (100, "half", 256): Tiles(Tile(128, 64, 256, 8, 3, 1), Tile(64, 128, 256, 8, 3, 1), Tile(128, 64, 256, 8, 3, 1)),
    (100, "half", ANY): Tiles(Tile(128, 128, 64, 8, 4, 1), Tile(64, 64, 64, 4, 3, 2), Tile(128, 64, 64, 8, 3, 1, 256)),
    (100, "tf32", 128): Tiles(Tile(128, 64, 128, 8, 3, 1), Tile(64, 128, 128, 8, 3, 1), Tile(128, 64, 128, 8, 3, 1)),
    (100, "tf32", ANY): Tiles(Tile(128, 128, 32, 8, 3, 1), Tile(64, 64, 32, 4, 3, 2), Tile(64, 64, 32, 8, 3, 1, 256)),
    (100, "tf32x3", ANY): Tiles(Tile(128, 64, 32, 8, 3, 1), Tile(64, 64, 32, 4, 3, 2), Tile(64, 32, 32, 4, 3, 2, 128)),
    (100, "ieee", ANY): Tiles(Tile(64, 64, 16, 4, 3, 3), Tile(64, 64, 16, 8, 3, 1), Tile(32, 32, 16, 8, 2, 2, 256)),
}
# fmt: on

# the warp-specialised backward, which only impl="gluon" chooses: the warps are those of one of its two groups, the
# stages those of its ring of column tiles. with 256 features the model sees no gain
GLUON_ARCH = 90
GLUON_TILE = Tile(128, 128, 128, 4, 4)


def gluon_tile(arch: int, dtype: torch.dtype, width: int) -> Tile:
    """The tile of the warp-specialised backward; ValueError for what it does not compute.

    Args:
        arch: compute capability, such as 90.
        dtype: of the rows in the products.
        width: features per row.
    """
    if arch != GLUON_ARCH:
        raise ValueError(
            f"impl='gluon' is compiled for compute capability 9.0 (H100, H200), got {arch // 10}.{arch % 10}: "
            f"use impl='triton'"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"impl='gluon' multiplies bfloat16 or float16, or float32 with precision='bf16', got {dtype}: "
            f"use impl='triton'"
        )
    if width % 8 != 0 or width > GLUON_TILE.block_d:
        raise ValueError(
            f"impl='gluon' takes a multiple of 8 features, at most {GLUON_TILE.block_d}, got {width}: use impl='triton'"
        )
    return replace(GLUON_TILE, block_d=padded(width))


def dot_kind(dtype: torch.dtype, precision: str) -> str:
    """The table's kind for tiles of ``dtype``; TypeError or ValueError for a dtype or precision without a kernel."""
    if dtype in (torch.bfloat16, torch.float16):
        return "half"
    if dtype != torch.float32:
        raise TypeError(f"the Triton kernels compute bfloat16, float16 and float32, got {dtype}")
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision to be one of {PRECISIONS} for float32 rows, got {precision!r}")
    return precision


def padded(width: int) -> int:
    """The next power of two from ``width`` features up; tensor cores need at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def table_tiles(arch: int, kind: str, width: int) -> Tiles:
    """The tiles for rows of ``width`` features on compute capability ``arch`` (such as 90), shrunk for narrow rows."""
    # 12.x has the tensor cores and the shared memory size of 8.x
    table_arch = 80 if arch >= 120 else max((a for a, _, _ in TABLE if a <= arch), default=80)
    widths = sorted(w for a, k, w in TABLE if (a, k) == (table_arch, kind) and w >= width)
    tiles = TABLE[table_arch, kind, widths[0] if widths else ANY]

    def shrunk(tile: Tile) -> Tile:
        return replace(tile, block_d=min(tile.block_d, padded(width)), block_out=min(tile.block_out, padded(width)))

    stats = None if tiles.stats is None else shrunk(tiles.stats)
    return Tiles(shrunk(tiles.forward), shrunk(tiles.triangular), shrunk(tiles.backward), stats)


def for_rows(tile: Tile, rows: int) -> Tile:
    """The tile of the rectangular forward for so many rows: with few, tall tiles leave multiprocessors idle."""
    if tile.block_m <= 128 or rows >= TRIANGULAR_FROM_ROWS:
        return tile
    return replace(tile, block_m=tile.block_m // 2, num_warps=tile.num_warps // 2)


@functools.cache
def device_traits(device: torch.device) -> tuple[int, int]:
    """Compute capability (such as 90) and number of multiprocessors; the interpreter counts as an 8.0 with one."""
    if device.type != "cuda":
        return 80, 1
    properties = torch.cuda.get_device_properties(device)
    return 10 * properties.major + properties.minor, properties.multi_processor_count


@functools.cache
def tiles_for(device: torch.device, dtype: torch.dtype, precision: str, width: int) -> Tiles:
    """The tiles of every kernel for rows of ``dtype`` and ``width`` on ``device``."""
    return table_tiles(device_traits(device)[0], dot_kind(dtype, precision), width)


def rows_tile(width: int) -> Tile:
    """The tile of the kernels that process whole rows."""
    if width > WIDEST_ROW:
        raise ValueError(f"the Triton kernels take at most {WIDEST_ROW} features, got {width}")
    block_d = padded(width)
    return Tile(max(1, 4096 // block_d), 1, block_d, num_warps=4 if block_d <= 4096 else 16)


@functools.lru_cache(maxsize=1024)
def split_columns(
    device: torch.device, tile: Tile, programs: int, num_cols: int, splits: int | None, *, sms: int | None = None
) -> tuple[int, int]:
    """Number of column splits that keeps every multiprocessor busy with ``programs`` row tiles, and tiles per split.

    The cost of s splits is the number of waves of programs, each 1/s as long, plus the merging of s partial results.
    A split has at least four tiles, and the number of programs is bounded, which bounds the memory for their results.
    ``splits`` overrides the choice, ``sms`` the number of multiprocessors.
    """
    column_tiles = -(-num_cols // tile.block_n)
    if splits is None:
        slots = (sms or device_traits(device)[1]) * tile.programs_per_sm
        most = max(1, min(column_tiles // 4, 8 * slots // programs))
        splits = min(range(1, most + 1), key=lambda s: -(-programs * s // slots) / s * (1.0 + 0.02 * (s - 1)))
    tiles_per_split = -(-column_tiles // splits)
    return -(-column_tiles // tiles_per_split), tiles_per_split


def triangular_chunk(device: torch.device, tile: Tile, num_rows: int, *, sms: int | None = None) -> int:
    """Row tiles per program of the triangular forward.

    About sixteen programs per resident slot; but less than 1,024 rows, where starting programs costs as much as their
    tiles, only for fewer than four programs per slot, and never less than four tiles.
    """
    slots = (sms or device_traits(device)[1]) * tile.programs_per_sm
    tiles = num_rows * num_rows // (2 * tile.block_m * tile.block_n)
    return max(4, min(1024 // tile.block_m, tiles // (4 * slots)), tiles // (16 * slots))
