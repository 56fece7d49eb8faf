"""CLIP and ranking on a CPU, from rows as they come to their gradients: what lse_blocks.py does, with fewer copies.

Row i of the first side belongs to column i of the second. The rows are normalised and scaled into one copy,
``x = root u`` and ``y = root v`` with ``root^2 = |scale| / c``, so that ``s_ij = c <x_i, y_j>`` needs no other operand:
c is ln 2 where the tiles take ``exp2``, else 1. Gradients are turned into those of the rows where they are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastclr.losses import tiles
from fastclr.losses.contrast_blocks import row_lengths
from fastclr.losses.lse_blocks import Excluded, Products, exponent_unit, log_sums, pulls
from fastclr.losses.tiles import compute_dtype, fill_diagonal, matrix_products, unshifted, vector_dtype

CHUNK = 128  # rows normalised at once
STRIPE_TILES = 8  # a stripe of rows against all columns is this many tiles large


def row_products(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """``<a_i, b_i>`` in a dtype, with the products of a few rows at a time."""
    parts = zip(first.split(CHUNK), second.split(CHUNK), strict=True)
    return torch.cat([torch.linalg.vecdot(a.to(dtype), b.to(dtype)) for a, b in parts])


class Scaled:
    """How similarities are computed: ``s_ij = c <x_i, y_j>``."""

    def __init__(self, scale: Tensor, columns: int, dtype: torch.dtype, shift: str, normalize: bool) -> None:
        self.exact = unshifted(scale.reciprocal(), max(1, columns), compute_dtype(dtype), shift)
        self.unit = exponent_unit(self.exact)
        self.scale, self.normalize = scale, normalize
        self.root = (scale.abs() / self.unit).sqrt()

    def rows(self, blocks: Sequence[Tensor], sign: Tensor | None) -> tuple[Tensor, Tensor]:
        """``sign root u`` of the rows of all blocks, rounded once, and ``1 / |row|``, 0 where there is no direction."""
        like = blocks[0]
        factor = self.root if sign is None else self.root * sign
        out = like.new_empty((sum(map(len, blocks)), like.shape[1]), dtype=compute_dtype(like.dtype))
        inverse = out.new_empty(len(out) if self.normalize else 0, dtype=vector_dtype(like.device))
        start = 0
        for block in blocks:
            for part in block.split(CHUNK):
                wide, own = part.to(inverse.dtype), slice(start, start + len(part))
                start = own.stop
                if self.normalize:
                    length = row_lengths(wide, squares_fit=wide.dtype.itemsize > part.dtype.itemsize)
                    inverse[own] = length.clamp_min_(1e-12).reciprocal_()
                    out[own] = wide * (factor * inverse[own])[:, None]
                else:
                    out[own] = wide * factor
        return out, inverse.masked_fill_(inverse >= 1e12, 0.0)

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """``s_ii`` of the rows, in the dtype of per-row values."""
        return row_products(x, y[: len(x)], vector_dtype(x.device)).mul_(self.unit)

    def back(self, grad: Tensor, x: Tensor, inverse: Tensor, factor: Tensor) -> Tensor:
        """Make the gradient of the rows of sums ``g_i = sum_j w_ij y_j``; return ``sum_i <g_i, x_i> c factor``."""
        dots = row_products(grad, x, grad.dtype)
        factor = factor * self.unit
        total = dots.sum(dtype=inverse.dtype) * factor
        if self.normalize:
            grad.addcmul_(x, (dots / self.root.square().neg()).to(x.dtype)[:, None])
            grad.mul_((inverse * (factor * self.root)).to(x.dtype)[:, None])
        else:
            grad.mul_((factor * self.root).to(x.dtype))
        return total


def clip_fwd(
    first: Tensor, second: Tensor, scale: Tensor, normalize: bool, shift: str, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Similarities of N pairs, and log-sum-exps over all others of a row and of a column.

    Args:
        first: ``[N, D]`` floating-point.
        second: ``[N, D]``.
        scale: 0-dim, in the dtype of per-row values; not 0, may be negative.
        normalize, shift, precision: as the options of the losses; "online" keeps running maxima.

    Returns:
        ``s_ii``, ``log sum_{j != i} exp(s_ij)`` and ``log sum_{j != i} exp(s_ji)``, ``[N]`` each; and what the backward
        needs: x, y and the inverse lengths of both sides' rows.
    """
    how = Scaled(scale, len(first), first.dtype, shift, normalize)
    (x, inverse_x), (y, inverse_y) = how.rows([first], scale.sign()), how.rows([second], None)
    with matrix_products(precision, first.device):
        rows, columns = log_sums(_products(x, y), how.exact, both=True)
    return how.similarity(x, y), rows, columns, x, y, inverse_x, inverse_y


def _products(x: Tensor, y: Tensor) -> Products:
    return Products(x, y, Excluded("self", 0, 0, None, None, None), symmetric=False)


def clip_bwd(
    grads: Sequence[Tensor],
    rows: Tensor,
    columns: Tensor,
    x: Tensor,
    y: Tensor,
    inverse_x: Tensor,
    inverse_y: Tensor,
    scale: Tensor,
    normalize: bool,
    shift: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of both sides' rows, in the dtype of x, and of the scale.

    Args:
        grads: incoming gradients of the first three results of :func:`clip_fwd`.
        rows, columns, x, y, inverse_x, inverse_y: its other results.
        scale, normalize, shift, precision: as there.
    """
    how = Scaled(scale, len(x), x.dtype, shift, normalize)
    own, row_grad, column_grad = grads
    dx, dy, peak = pulls(_products(x, y), x, y, rows, row_grad, columns, column_grad, how.exact, True, True, precision)
    pull = (own / peak).to(x.dtype)[:, None]
    dx.addcmul_(y, pull)
    dy.addcmul_(x, pull)
    sign = scale.sign()
    total = how.back(dx, x, inverse_x, peak * sign)
    how.back(dy, y, inverse_y, peak)
    return dx, dy, total * sign / scale


def stripe_rows(columns: int, dtype: torch.dtype) -> int:
    """How many rows are compared with all columns at once."""
    return STRIPE_TILES * tiles.CPU_TILE_BYTES // (dtype.itemsize * max(1, columns)) // 16 * 16


def ranking(
    first: Tensor, columns: Sequence[Tensor], scale: Tensor, normalize: bool, shift: str, precision: str, grads: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``loss_i = log(1 + sum_{j != i} exp(s_ij - s_ii))`` over the rows of all columns, and the gradients of its sum.

    A row's own loss tells what its similarities get back. So a stripe of rows is compared with all columns once, and
    its tile of exponentials gives loss and gradients: no similarity is computed twice.

    Args:
        first: ``[n, D]`` floating-point.
        columns: ``[n, D]``, the positives, and any ``[h, D]`` after them.
        scale, normalize, shift, precision: as in :func:`clip_fwd`.
        grads: whether to compute the gradients.

    Returns:
        loss ``[n]``; gradients of the rows ``[n, D]`` and of all columns ``[m, D]``, in the dtype of computation, and
        of the scale; ``[0]`` without grads.
    """
    count = sum(map(len, columns))
    how = Scaled(scale, max(len(first), count), first.dtype, shift, normalize)
    (x, inverse_x), (y, inverse_y) = how.rows([first], scale.sign()), how.rows(columns, None)
    own, loss = how.similarity(x, y), x.new_empty(len(x), dtype=vector_dtype(x.device))
    dx, dy = (torch.empty_like(x), torch.zeros_like(y)) if grads else (x.new_empty(0), x.new_empty(0))
    step = max(16, stripe_rows(count, x.dtype))
    buffer = x.new_empty(min(step, len(x)) * count)
    with matrix_products(precision, first.device):
        for i in range(0, len(x), step):
            part = slice(i, min(i + step, len(x)))
            tile = buffer[: (part.stop - i) * count].view(part.stop - i, count)
            torch.mm(x[part], y.T, out=tile)
            fill_diagonal(tile, i, -math.inf)
            top = tile.new_zeros(len(tile))
            if not how.exact:
                top = tile.amax(1).clamp_min_(torch.finfo(tile.dtype).min)
            total = (tile.exp2_() if how.exact else tile.sub_(top[:, None]).exp_()).sum(1).to(loss.dtype)
            above = total.log() + top - own[part]
            loss[part] = torch.logaddexp(above, torch.zeros_like(above))
            if grads:
                # of the log-sum-exp, and with the other sign of the positive; nothing where nothing counts
                slope = above.sigmoid()
                weight = (slope / total).masked_fill_(total == 0, 0.0).to(x.dtype)[:, None]
                torch.mm(tile, y, out=dx[part])
                dx[part].mul_(weight)
                dy.addmm_(tile.T, x[part] * weight)
                pull = slope.to(x.dtype).neg_()[:, None]
                dx[part].addcmul_(y[part], pull)
                dy[part].addcmul_(x[part], pull)
    if not grads:
        return loss, dx, dy, loss.new_empty(0)
    sign = scale.sign()
    dscale = how.back(dx, x, inverse_x, sign) * sign / scale
    how.back(dy, y, inverse_y, torch.ones_like(sign))
    return loss, dx, dy, dscale
