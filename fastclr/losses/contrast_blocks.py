"""Contrastive losses in blocks of plain PyTorch: the CPU back end behind contrast_op.py, in O(M D) memory, any device.

Calls tiles.py for the tiles. Notation: n local pairs, m = 2n local rows z (view 0, then view 1), M columns over all
ranks ordered by rank, view, pair; ``offset`` is the column of local row 0 and ``s_ij = <z_i, k_j> / tau``. On one
process the columns are z itself and the similarities symmetric, so each pair of blocks is visited once. Derivations:
docs/loss.md.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from fastclr.losses.tiles import (
    block_size,
    compute_dtype,
    fill_special,
    logit_operands,
    matrix_products,
    tiles,
    unshifted,
    vector_dtype,
)

EPS = 1e-12


def ntxent_prologue(z0: Tensor, z1: Tensor, normalize: bool, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows, their inverse lengths and the similarity of every pair.

    Args:
        z0: ``[n, D]``, first view, any strides.
        z1: ``[n, D]``, second view.
        normalize: divide every row by ``max(|u|, 1e-12)``.
        precision: ignored, the Triton back end needs it; rows are float32, or float64 for float64 inputs.

    Returns:
        z ``[m, D]``; inv_norm ``[m]`` (1 if not normalised) and positive ``[n]`` = ``<z0_i, z1_i>`` in float64.
    """
    pairs, wide = len(z0), vector_dtype(z0.device)
    rows = z0.new_empty((2 * pairs, z0.shape[1]), dtype=wide)
    rows[:pairs].copy_(z0)
    rows[pairs:].copy_(z1)
    if normalize:
        length = row_lengths(rows, squares_fit=wide.itemsize > z0.dtype.itemsize)
        # an inverse of exactly 1e12 marks rows that get no gradient
        inverse = length.clamp_min_(EPS).reciprocal_()
        rows.mul_(inverse[:, None])
    else:
        inverse = rows.new_ones(2 * pairs)
    return rows.to(compute_dtype(z0.dtype)), inverse, torch.linalg.vecdot(rows[:pairs], rows[pairs:])


def row_lengths(rows: Tensor, squares_fit: bool) -> Tensor:
    """Euclidean length of every row, scaled by its largest element where squares could overflow or underflow."""
    peak = None if squares_fit else rows.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(rows if peak is None else rows / peak, dim=1)
    return length if peak is None else length * peak.squeeze(1)


def ntxent_fwd(
    z: Tensor,
    columns: Tensor,
    positive: Tensor,
    temperature: Tensor,
    offset: int,
    shift: str,
    precision: str,
    deterministic: bool,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``loss_i = log(1 + sum_{j not self, positive} exp(s_ij - s_ip))`` and ``lse_i = s_ip + loss_i``.

    Args:
        z: ``[m, D]`` rows from :func:`ntxent_prologue`.
        columns: ``[M, D]``, the rows of all ranks (z itself on one process).
        positive: ``[n]``.
        temperature: tau, 0-dim.
        offset: column of local row 0.
        shift: "online" keeps running maxima; "fixed" and "runtime" skip them where the temperature allows it.
        precision: of float32 matrix products, see :func:`matrix_products`.
        deterministic: ignored, the Triton back end needs it; the order of summation here is always the same.
        stats: also compute the two statistics.

    Returns:
        loss, lse, correct, entropy, each ``[m]`` in float64; the last two are ``[0]`` without stats.
    """
    s_pos = (positive / temperature).repeat(2)
    with matrix_products(precision, z.device):
        if not stats and len(z) == len(columns) and unshifted(temperature, len(columns), z.dtype, shift):
            log_negatives = _sum_triangular(z, len(positive), temperature).log_()
            correct, entropy = s_pos.new_empty(0), s_pos.new_empty(0)
        else:
            log_negatives, correct, entropy = sum_online(z, columns, s_pos, temperature, offset, stats)
    log_negatives.sub_(s_pos)
    loss = torch.logaddexp(log_negatives, torch.zeros_like(log_negatives))
    return loss, s_pos + loss, correct, entropy


def _sum_triangular(z: Tensor, pairs: int, temperature: Tensor) -> Tensor:
    """Sum of exp(s_ij) over the negatives of every row ``[m]``, from the tiles with j >= i."""
    size = len(z)
    block = block_size(size, z.dtype, z.device)
    buffer = z.new_empty(block * block)
    rows, columns = logit_operands(z, z, temperature, math.log(2))
    sums = z.new_zeros(size, dtype=vector_dtype(z.device))
    for i, i_end, j, j_end in tiles(size, size, block, triangular=True):
        tile = buffer[: (i_end - i) * (j_end - j)].view(i_end - i, j_end - j)
        torch.mm(rows[i:i_end], columns[j:j_end].T, out=tile).exp2_()
        fill_special(tile, i, j, pairs, 0, 0.0)
        sums[i:i_end] += tile.sum(1)
        if j > i:
            sums[j:j_end] += tile.sum(0)
    return sums


def sum_online(
    z: Tensor, columns: Tensor, s_pos: Tensor, temperature: Tensor, offset: int, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp over the negatives ``[m]`` with running maxima; correct and entropy too if `stats` is set.

    Statistics need separate sums for the two views of the columns: group 0 is the row's own view, group 1 the other.
    """
    rows, pairs = len(z), len(z) // 2
    block = block_size(len(columns), z.dtype, z.device)
    buffer = z.new_empty(block * block)
    z, columns = logit_operands(z, columns, temperature)
    # finite: with -inf, a row without negatives would compute inf - inf
    top = z.new_full((2, rows), torch.finfo(z.dtype).min)
    total = s_pos.new_zeros(2, rows)
    moment = s_pos.new_zeros(rows)
    row_edges = sorted({*range(0, rows, block), *((pairs,) if stats else ()), rows})
    column_step = pairs if stats else len(columns)
    for i, i_end in pairwise(row_edges):
        for start in range(0, len(columns), column_step):
            group = int(stats and (start // pairs) % 2 != i // pairs)
            for j in range(start, start + column_step, block):
                j_end = min(j + block, start + column_step)
                tile = buffer[: (i_end - i) * (j_end - j)].view(i_end - i, j_end - j)
                torch.mm(z[i:i_end], columns[j:j_end].T, out=tile)
                fill_special(tile, i, j, pairs, offset, -math.inf)
                old = top[group, i:i_end].clone()
                new = torch.maximum(old, tile.amax(1), out=top[group, i:i_end])
                shrink = (old - new).exp_()
                tile.sub_(new[:, None])
                if group:
                    # sum of (s - top) exp(s - top), rescaled to the new top
                    moved = (moment[i:i_end] + (old - new) * total[1, i:i_end]) * shrink
                    moment[i:i_end] = moved + torch.special.entr(tile.exp_()).sum(1).neg_()
                else:
                    tile.exp_()
                total[group, i:i_end].mul_(shrink).add_(tile.sum(1))
    log_groups = total.log().add_(top)
    if not stats:
        return log_groups[0], s_pos.new_empty(0), s_pos.new_empty(0)
    correct = (s_pos >= top[1]).to(s_pos.dtype)
    return torch.logaddexp(*log_groups), correct, _entropy(s_pos, top[1], total[1], moment)


def _entropy(s_pos: Tensor, top: Tensor, total: Tensor, moment: Tensor) -> Tensor:
    """Entropy ``log Z - sum p s`` over the negatives (total and moment are relative to top) and the positive."""
    top = torch.where(total > 0, top, s_pos)
    highest = torch.maximum(top, s_pos)
    scale, own = (top - highest).exp(), (s_pos - highest).exp()
    mass = total * scale + own
    first = (moment + (top - highest) * total) * scale + (s_pos - highest) * own
    return (mass.log() - first / mass).clamp_min(0.0)


def ntxent_bwd(
    z0: Tensor,
    z1: Tensor,
    z: Tensor,
    columns: Tensor,
    inv_norm: Tensor,
    positive: Tensor,
    loss: Tensor,
    lse: Tensor,
    weight: Tensor | None,
    scale: Tensor,
    temperature: Tensor,
    offset: int,
    normalize: bool,
    shift: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of ``scale * sum_j weight_j loss_j`` over all ranks, with respect to the rows of this rank.

    ``g_i = scale/tau [sum_{j not self, positive} (w_i e^(s_ij - lse_i) + w_j e^(s_ij - lse_j)) k_j
    + (w_i (e^-loss_i - 1) + w_p (e^-loss_p - 1)) z_p]``, and ``(g_i - (g_i . z_i) z_i) / |u_i|`` if normalised.

    Args:
        z0: ``[n, D]``, first view as passed by the caller; only its dtype is used, since z is not rounded here.
        z1: ``[n, D]``, second view as passed by the caller.
        z, columns, positive, temperature, offset, shift, precision: as in the forward.
        inv_norm: ``[m]`` from the prologue; rows where it is 1e12 get no gradient.
        loss: ``[m]`` from the forward.
        lse: ``[M]`` of all columns.
        weight: ``[M]``, or None for ones.
        scale: 0-dim.
        normalize: whether the prologue normalised.

    Returns:
        dz0 and dz1 ``[n, D]`` in the dtype of the inputs, dot ``[m]`` = ``g_i . z_i`` before the projection.
    """
    pairs = len(z0)
    grad = z.new_zeros(z.shape)
    exact = unshifted(temperature, len(columns), z.dtype, shift)
    with matrix_products(precision, z.device):
        _accumulate(grad, z, columns, lse, weight, temperature, offset, exact)
    pull = torch.expm1(-loss)
    if weight is not None:
        pull.mul_(weight[offset : offset + len(z)])
    both = (pull[:pairs] + pull[pairs:]).to(z.dtype)[:, None]
    grad[:pairs].addcmul_(both, z[pairs:])
    grad[pairs:].addcmul_(both, z[:pairs])
    grad.mul_(scale / temperature)
    dot = torch.linalg.vecdot(grad, z)
    if normalize:
        factor = inv_norm.masked_fill(inv_norm >= 1.0 / EPS, 0.0).to(z.dtype)
        grad.addcmul_(dot[:, None], z, value=-1.0).mul_(factor[:, None])
    return grad[:pairs].to(z0.dtype, copy=True), grad[pairs:].to(z1.dtype, copy=True), dot


def _accumulate(
    grad: Tensor,
    z: Tensor,
    columns: Tensor,
    lse: Tensor,
    weight: Tensor | None,
    temperature: Tensor,
    offset: int,
    exact: bool,
) -> None:
    """Add ``sum_j (w_i e^(s_ij - lse_i) + w_j e^(s_ij - lse_j)) k_j`` over the negatives to grad.

    exact: exp(s) is finite, so both terms share it; otherwise each term computes its own exponential.
    """
    rows, pairs = len(z), len(z) // 2
    square = rows == len(columns)
    block = block_size(len(columns), z.dtype, z.device)
    buffer, second = z.new_empty(block * block), z.new_empty(block * block)
    left, right = logit_operands(z, columns, temperature, math.log(2) if exact else 1.0)
    # e^(s - lse) = e^(s - shift) e^(shift - lse), where the second factor is computed once per row
    shift = torch.zeros_like(lse, dtype=z.dtype) if exact else lse.to(z.dtype)
    factor = (shift - lse).exp_()
    factor = (factor if weight is None else factor.mul_(weight)).to(z.dtype)
    own, own_shift = factor[offset : offset + rows, None], shift[offset : offset + rows, None]
    for i, i_end, j, j_end in tiles(rows, len(columns), block, triangular=square):
        shape = (i_end - i, j_end - j)
        tile = buffer[: shape[0] * shape[1]].view(shape)
        other = second[: shape[0] * shape[1]].view(shape)
        torch.mm(left[i:i_end], right[j:j_end].T, out=tile)
        if exact:
            torch.add(own[i:i_end], factor[j:j_end], out=other)
            tile.exp2_().mul_(other)
        else:
            torch.sub(tile, own_shift[i:i_end], out=other).exp_().mul_(own[i:i_end])
            tile.sub_(shift[j:j_end]).exp_().mul_(factor[j:j_end]).add_(other)
        fill_special(tile, i, j, pairs, offset, 0.0)
        grad[i:i_end].addmm_(tile, columns[j:j_end])
        if square and j > i:
            grad[j:j_end].addmm_(tile.T, z[i:i_end])
