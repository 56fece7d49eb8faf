"""The forward: `ntxent_fwd` and its rectangular kernel, one process's rows against the columns of all processes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .ntxent_loss import ntxent_loss, store_loss
from .ntxent_stats import ntxent_stats
from .ntxent_triangular import ntxent_triangular
from .numerics import LOG2E, LOWEST, add_tile, fixed_shift, shift_applies, shifts_to_launch
from .pair_masks import negatives
from .tile_table import TRIANGULAR_FROM_ROWS, Tile, for_rows, split_columns, tiles_for
from .tiles import (
    count_tiles,
    device_guard,
    dot_precision,
    load_rows,
    nth_tile,
    row_tile,
    row_tile_specials,
    wide_products,
)


# one program takes BLOCK_M rows of one view against the column tiles of one split, and accumulates row_max and row_sum
# over the negatives. column tiles that need no mask come first
@triton.jit(do_not_specialize=["n", "num_cols", "offset", "tiles_per_split"])
def ntxent_fwd_kernel(
    z,
    columns,
    positive,
    temperature,
    loss,
    lse,
    partial_max,
    partial_sum,
    n,
    num_cols,
    offset,
    tiles_per_split,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_ONLINE: tl.constexpr,
    GUARDED: tl.constexpr,
    SPLIT: tl.constexpr,
):
    view, pair = row_tile(tl.program_id(0), n, BLOCK_M)
    pairs = pair + tl.arange(0, BLOCK_M)
    in_rows = pairs < n
    first_row = view * n + pair
    row_end = (view + 1) * n
    rows = view * n + pairs
    self_col = offset + rows
    positive_col = offset + (1 - view) * n + pairs
    begin = tl.program_id(1) * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(num_cols, BLOCK_N))
    if GUARDED:
        applies = shift_applies(temperature, num_cols, IS_ONLINE)
        end = tl.where(applies, end, begin)
        in_rows &= applies
    specials = row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M, BLOCK_N)
    tau = tl.load(temperature)
    scale = 1.0 / tau * LOG2E

    q = load_rows(z, first_row, 0, row_end, D, BLOCK_M, BLOCK_D, True)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = row_sum + (LOWEST if IS_ONLINE else fixed_shift(num_cols))
    for MASKED in tl.static_range(2):
        for i in tl.range(0, count_tiles(specials, MASKED), num_stages=1 if MASKED else None):
            first_col = nth_tile(i, specials, MASKED) * BLOCK_N
            if D <= BLOCK_D:
                k = load_rows(columns, first_col, 0, num_cols, D, BLOCK_N, BLOCK_D, MASKED)
                s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            else:
                s = wide_products(
                    z, columns, first_row, row_end, first_col, num_cols, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION, MASKED
                )
            s *= scale
            if MASKED:
                cols = first_col + tl.arange(0, BLOCK_N)
                is_negative = negatives(cols, self_col, positive_col)
                s = tl.where(is_negative & (cols < num_cols)[None, :], s, float("-inf"))
            row_max, row_sum = add_tile(row_max, row_sum, s, IS_ONLINE)

    if SPLIT:
        out = tl.program_id(1).to(tl.int64) * (2 * n) + rows
        if IS_ONLINE:
            tl.store(partial_max + out, row_max, mask=in_rows)
        tl.store(partial_sum + out, row_sum, mask=in_rows)
    else:
        positive_logit = tl.load(positive + pairs, mask=in_rows, other=0.0) / tau
        store_loss(loss, lse, rows, in_rows, row_max, row_sum, positive_logit)


def ntxent_fwd(
    z: torch.Tensor,
    columns: torch.Tensor,
    positive: torch.Tensor,
    temperature: torch.Tensor,
    offset: int,
    shift: str,
    precision: str,
    deterministic: bool,
    stats: bool,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
    triangular: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, log-sum-exp and, on request, contrastive accuracy and entropy of every row of ``z`` against ``columns``.

    ``neg_i = sum_{j not i, not positive(i)} exp(s_ij - c)``, ``loss_i = log1p(neg_i exp(c - s_pos))``,
    ``lse_i = s_pos + loss_i``.

    Args:
        z: ``[2n, D]`` rows of this process, view 0 first.
        columns: ``[M, D]`` rows of every process (``z`` itself on one), same dtype.
        positive: ``[n]`` fp32, dot products of the positives.
        temperature: scalar fp32 tensor on the device, not 0, may be negative.
        offset: column of row 0.
        shift: ``"fixed"``, ``"online"`` or ``"runtime"``: how exponents are kept in range (see `numerics`).
        precision: ``"ieee"``, ``"tf32"`` or ``"tf32x3"`` for fp32 rows; other dtypes ignore it.
        deterministic: bitwise reproducible, so never the triangular kernel, which sums with atomics.
        stats: also compute the last two results.
        tile: overrides the tile table.
        splits: overrides the number of column splits of the rectangular kernel.
        triangular: overrides the row threshold of the triangular kernel, where that kernel applies.

    Returns:
        ``loss``, ``lse``, ``correct``, ``entropy``: fp32 ``[2n]``; the last two are empty unless ``stats``.

    Raises:
        ValueError: ``shift`` or ``precision`` is unknown, or ``stats`` if the number of columns is not a multiple of m.
    """
    m = len(z)
    z, columns = z.contiguous(), columns.contiguous()
    loss = torch.empty((m,), dtype=torch.float32, device=z.device)
    lse = torch.empty_like(loss)
    # two tensors: an operator must not return the same one twice
    correct, entropy = (torch.empty((0,), dtype=torch.float32, device=z.device) for _ in range(2))
    if stats:
        correct, entropy = ntxent_stats(z, columns, positive, temperature, offset, precision, tile=tile)
    if triangular is None:
        triangular = m >= TRIANGULAR_FROM_ROWS
    launches = shifts_to_launch(shift)
    for launch in launches:
        guarded = len(launches) > 1
        # the columns are this process's own rows, and the order of summation is free
        if triangular and launch == "fixed" and columns.shape[0] == m and not deterministic:
            sums = ntxent_triangular(z, temperature, precision, guarded, tile=tile)
            ntxent_loss(None, sums, positive, temperature, loss, lse, m, guarded)
        else:
            ntxent_rectangular(
                z,
                columns,
                positive,
                temperature,
                loss,
                lse,
                offset,
                launch,
                precision,
                guarded,
                tile=tile,
                splits=splits,
            )
    return loss, lse, correct, entropy


def ntxent_rectangular(
    z: torch.Tensor,
    columns: torch.Tensor,
    positive: torch.Tensor,
    temperature: torch.Tensor,
    loss: torch.Tensor,
    lse: torch.Tensor,
    offset: int,
    shift: str,
    precision: str,
    guarded: bool,
    *,
    tile: Tile | None,
    splits: int | None,
) -> None:
    """Write ``loss`` and ``lse`` with the rectangular kernel; ``shift`` must be ``"fixed"`` or ``"online"``."""
    m, width = z.shape
    num_cols = columns.shape[0]
    is_online = shift == "online"
    tile = tile or for_rows(tiles_for(z.device, z.dtype, precision, width).forward, m)
    row_tiles = 2 * triton.cdiv(m // 2, tile.block_m)
    splits, tiles_per_split = split_columns(z.device, tile, row_tiles, num_cols, splits)
    partial_sum = torch.empty((splits, m), dtype=torch.float32, device=z.device) if splits > 1 else loss
    partial_max = torch.empty_like(partial_sum) if splits > 1 and is_online else None
    with device_guard(z):
        ntxent_fwd_kernel[(row_tiles, splits)](
            z,
            columns,
            positive,
            temperature,
            loss,
            lse,
            partial_sum if partial_max is None else partial_max,
            partial_sum,
            m // 2,
            num_cols,
            offset,
            tiles_per_split,
            D=width,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_D=tile.block_d,
            PRECISION=dot_precision(z, precision),
            IS_ONLINE=is_online,
            GUARDED=guarded,
            SPLIT=splits > 1,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    if splits > 1:
        ntxent_loss(partial_max, partial_sum, positive, temperature, loss, lse, num_cols, guarded)
