"""The operator ``lse`` in blocks of plain PyTorch: the CPU back end behind lse_op.py, in O((n + m) D) memory.

Calls tiles.py for the tiles. Notation: rows q ``[n, D]``, columns k ``[m, D]``, ``s_ij = scale <q_i, k_j>``. Without
columns the rows are their own columns: the similarities are symmetric and each pair of blocks is visited once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastclr.losses.tiles import (
    block_size,
    fill_diagonal,
    fill_special,
    logit_operands,
    matrix_products,
    tiles,
    unshifted,
    vector_dtype,
)


@dataclass(frozen=True)
class Excluded:
    """The pairs that do not count, by the names of lse_reference.py; ``offset`` is the column of row 0."""

    kind: str
    offset: int
    pairs: int
    row_ids: Tensor | None
    column_ids: Tensor | None
    limit: Tensor | None

    def fill(self, tile: Tensor, i: int, j: int) -> None:
        """Set the similarities of excluded pairs to -inf; the tile's corner is (i, j)."""
        i_end, j_end = i + tile.shape[0], j + tile.shape[1]
        if self.limit is not None:
            tile.masked_fill_(tile > self.limit[i:i_end, None], -math.inf)
        if self.row_ids is not None and self.column_ids is not None:
            ids, others = self.row_ids[i:i_end, None], self.column_ids[None, j:j_end]
            tile.masked_fill_(ids == others if self.kind == "equal" else ids != others, -math.inf)
        if self.kind == "pair":
            fill_special(tile, i, j, self.pairs, self.offset, -math.inf)
        elif self.kind in ("self", "other"):
            fill_diagonal(tile, self.offset + i - j, -math.inf)


class Products:
    """Tiles of similarities in a buffer, one after another; in units of ln 2 if `exact`, excluded pairs at -inf."""

    def __init__(self, left: Tensor, right: Tensor, excluded: Excluded, symmetric: bool) -> None:
        self.left, self.right = left, right
        self.block = block_size(max(1, len(right)), left.dtype, left.device)
        self.shape = (len(left), len(right))
        self.symmetric = symmetric
        self.excluded = excluded
        self.buffer = left.new_empty(self.block * self.block)

    def __iter__(self) -> Iterator[tuple[Tensor, slice, slice, bool]]:
        """A tile, its rows and columns, and whether it stands for its mirror image too."""
        for i, i_end, j, j_end in tiles(*self.shape, self.block, self.symmetric):
            tile = self.buffer[: (i_end - i) * (j_end - j)].view(i_end - i, j_end - j)
            torch.mm(self.left[i:i_end], self.right[j:j_end].T, out=tile)
            self.excluded.fill(tile, i, j)
            yield tile, slice(i, i_end), slice(j, j_end), self.symmetric and j > i


def lse_fwd(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    limit: Tensor | None,
    exclude: str,
    offset: int,
    both: bool,
    shift: str,
    precision: str,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """``log sum_j exp(s_ij)`` of every row, and the same over the rows of every column.

    Args:
        q: ``[n, D]``, float32 or float64.
        k: ``[m, D]`` like q, or None: q itself, with ids and exclusions that are symmetric too, and no limit.
        scale: 0-dim, not 0, may be negative.
        row_ids: int64 ``[n]`` for "equal" and "other", else None.
        column_ids: int64 ``[m]``.
        limit: ``[n]`` or None: pairs with ``s_ij > limit_i`` do not count.
        exclude: see lse_reference.py.
        offset: column of row 0.
        both: also compute the second result, which is ``[0]`` otherwise.
        shift: "online" keeps running maxima; "fixed" and "runtime" skip them where the scale allows it.
        precision: of float32 matrix products, see :func:`matrix_products`.
        deterministic: ignored, the Triton back end needs it; the order of summation here is always the same.

    Returns:
        ``[n]`` and ``[m]`` in float64; -inf where nothing counts.
    """
    temperature = scale.to(vector_dtype(q.device)).reciprocal()
    columns = q if k is None else k
    excluded = Excluded(exclude, offset, len(q) // 2, row_ids, column_ids, limit)
    exact = limit is None and unshifted(temperature, max(1, len(q), len(columns)), q.dtype, shift)
    products = Products(*logit_operands(q, columns, temperature, exponent_unit(exact)), excluded, symmetric=k is None)
    with matrix_products(precision, q.device):
        return log_sums(products, exact, both)


def exponent_unit(exact: bool) -> float:
    """Of the similarities in a tile: ``exp2`` takes a third to two thirds of the time of ``exp`` on a CPU."""
    return math.log(2) if exact else 1.0


def log_sums(products: Products, exact: bool, both: bool) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of the rows, and of the columns if `both` is set, from tiles of similarities."""
    rows_of = _Sums(products.left, products.shape[0], exact)
    columns_of = rows_of if products.symmetric else _Sums(products.left, products.shape[1] if both else 0, exact)
    for tile, rows, cols, mirrored in products:
        if exact:
            tile.exp2_()
        if both or mirrored:
            columns_of.add(tile.T, cols, keep=True)
        rows_of.add(tile, rows, keep=False)
    row_lse = rows_of.log()
    # two tensors: an operator must not return the same one twice
    return row_lse, row_lse[:0].clone() if products.symmetric else columns_of.log()


class _Sums:
    """Sums of exponentials per row: of plain ones if `exact`, else relative to running maxima."""

    def __init__(self, like: Tensor, count: int, exact: bool) -> None:
        self.total = like.new_zeros(count, dtype=vector_dtype(like.device))
        # finite: with -inf, a row where nothing counts would compute inf - inf
        self.top = None if exact else like.new_full((count,), torch.finfo(like.dtype).min)

    def add(self, tile: Tensor, rows: slice, keep: bool) -> None:
        """Add a tile of exponentials, or of similarities, which it overwrites unless `keep` is set."""
        if self.top is None:
            self.total[rows] += tile.sum(1)
            return
        old = self.top[rows].clone()
        new = torch.maximum(old, tile.amax(1), out=self.top[rows])
        difference = torch.sub(tile, new[:, None], out=None if keep else tile)
        self.total[rows].mul_((old - new).exp_()).add_(difference.exp_().sum(1))

    def log(self) -> Tensor:
        """The log-sum-exps."""
        return self.total.log_() if self.top is None else self.total.log_().add_(self.top)


def lse_bwd(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    limit: Tensor | None,
    row_lse: Tensor,
    row_grad: Tensor,
    column_lse: Tensor | None,
    column_grad: Tensor | None,
    exclude: str,
    offset: int,
    wanted: str,
    shift: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Gradients ``scale W K`` and ``scale W^T Q`` with ``W_ij = e^(s_ij) (g_i e^(-lse_i) + g_j e^(-lse_j))``.

    Args:
        q, k, scale, row_ids, column_ids, limit, exclude, offset, shift, precision: as in the forward.
        row_lse: ``[n]`` from the forward.
        row_grad: ``[n]``, incoming gradient of row_lse.
        column_lse: ``[m]``, or None: W then has the first term only. Without k it must be None: the gradient of the
            rows includes what they contribute as columns.
        column_grad: ``[m]``.
        wanted: "q", "k" or "both".

    Returns:
        dq ``[n, D]`` and dk ``[m, D]``, ``[0, D]`` where it is not wanted or k is None.
    """
    temperature = scale.to(vector_dtype(q.device)).reciprocal()
    columns = q if k is None else k
    if k is None:
        column_lse, column_grad = row_lse, row_grad
    excluded = Excluded(exclude, offset, len(q) // 2, row_ids, column_ids, limit)
    exact = limit is None and unshifted(temperature, max(1, len(q), len(columns)), q.dtype, shift)
    products = Products(*logit_operands(q, columns, temperature, exponent_unit(exact)), excluded, symmetric=k is None)
    dq, dk, peak = pulls(
        products,
        q,
        columns,
        row_lse,
        row_grad,
        column_lse,
        column_grad,
        exact,
        wanted != "k",
        k is not None and wanted != "q",
        precision,
    )
    factor = (peak * scale).to(q.dtype)
    return dq.mul_(factor), dk.mul_(factor)


def pulls(
    products: Products,
    q: Tensor,
    columns: Tensor,
    row_lse: Tensor,
    row_grad: Tensor,
    column_lse: Tensor | None,
    column_grad: Tensor | None,
    exact: bool,
    wants_q: bool,
    wants_k: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``W K``, ``W^T Q`` and the number that both still lack, from tiles of similarities; see :func:`lse_bwd`."""
    # factors of at most 1, so that tiny gradients do not underflow
    peak = row_grad.abs().amax() if len(q) else row_grad.new_zeros(())
    if column_grad is not None and len(column_grad):
        peak = torch.maximum(peak, column_grad.abs().amax())
    peak = peak.clamp_min(torch.finfo(row_grad.dtype).tiny)
    own, own_shift = _factors(row_lse, row_grad / peak, q.dtype, exact)
    others = None
    if column_lse is not None and column_grad is not None:
        others, others_shift = _factors(column_lse, column_grad / peak, q.dtype, exact)
    dq = torch.zeros_like(q) if wants_q else q.new_zeros((0, q.shape[1]))
    dk = torch.zeros_like(columns) if wants_k else q.new_zeros((0, q.shape[1]))
    second = torch.empty_like(products.buffer) if others is not None else products.buffer
    # row terms alone are a factor of a whole row: of the rows that dk sums, and of dq at the end
    pulled = q if others is not None or not wants_k else q * own[:, None]
    with matrix_products(precision, q.device):
        for tile, rows, cols, mirrored in products:
            if others is None:
                _ = tile.exp2_() if exact else tile.sub_(own_shift[rows, None]).exp_()
            else:
                other = second[: tile.numel()].view(tile.shape)
                if exact:
                    torch.add(own[rows, None], others[cols], out=other)
                    tile.exp2_().mul_(other)
                else:
                    torch.sub(tile, own_shift[rows, None], out=other).exp_().mul_(own[rows, None])
                    tile.sub_(others_shift[cols]).exp_().mul_(others[cols]).add_(other)
            if wants_q:
                dq[rows].addmm_(tile, columns[cols])
            if mirrored:
                dq[cols].addmm_(tile.T, q[rows])
            elif wants_k:
                dk[cols].addmm_(tile.T, pulled[rows])
    if others is None and wants_q:
        dq.mul_(own[:, None])
    return dq, dk, peak


def _factors(lse: Tensor, grad: Tensor, dtype: torch.dtype, exact: bool) -> tuple[Tensor, Tensor]:
    """``g e^(shift - lse)`` and the shift, in the dtype of the tiles; a row where nothing counts has neither."""
    empty = lse == -math.inf
    lse = lse.masked_fill(empty, 0.0)
    # e^(s - lse) = e^(s - shift) e^(shift - lse), where the second factor is computed once per row
    shift = torch.zeros_like(lse, dtype=dtype) if exact else lse.to(dtype)
    return (shift - lse).exp_().mul_(grad).masked_fill_(empty, 0.0).to(dtype), shift
