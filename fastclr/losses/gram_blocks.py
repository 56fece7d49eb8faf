"""Barlow Twins and VICReg in plain PyTorch, value and gradient in one pass: the computation behind gram_op.py.

Both losses need the off-diagonal elements of ``C = X^T Y / norm`` squared and summed, and ``Y C^T`` and ``X C`` without
C's diagonal. The primal form stores C, ``[D, D]``. The dual form never does: with ``K = X X^T`` and ``L = Y Y^T``,
``|C|^2 = <K, L> / norm^2``, ``Y C^T = L X / norm`` and ``X C = K Y / norm``, which is cheaper where N < D.

Everything the gradient needs is known once the loss is, so the forward computes it; the backward multiplies it by the
incoming number. With a process group the dual form gathers rows and the primal form adds up C, whichever is smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from fastclr.losses.tiles import compute_dtype, matrix_products, vector_dtype
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BARLOW_EPS = 1e-5
CHUNK_BYTES = 1 << 18  # rows multiplied and added at once: they stay in the cache between the two


def is_dual(form: str, rows: int, dim: int) -> bool:
    """Whether to go through the ``[N, N]`` products: asked for, or cheaper. `rows` counts those of all ranks."""
    return rows < dim if form == "auto" else form == "dual"


def barlow_gram(
    z0: Tensor,
    z1: Tensor,
    lambda_param: float,
    form: str,
    precision: str,
    grads: bool,
    group: ProcessGroup | None = None,
    local_statistics: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of Barlow Twins and the gradient of ``invariance + lambda_param * redundancy``.

    With ``d = diag C`` and ``dA = [2 lambda Y C_off^T + 2 (d - 1) Y] / N`` the gradient of a view is
    ``(dA - X mean_n(X dA)) / sqrt(var + eps)``.

    Args:
        z0: ``[n, D]``, first view of this rank.
        z1: ``[n, D]``, second view.
        lambda_param: weight of the redundancy.
        form: "primal", "dual" or "auto".
        precision: of float32 matrix products, see :func:`fastclr.losses.tiles.matrix_products`.
        grads: whether to compute the gradients.
        group: ranks whose rows form the batch.
        local_statistics: standardise with the mean and variance of this rank's rows only.

    Returns:
        terms ``[2]`` (invariance, redundancy) of the whole batch; the gradients of the whole batch's loss with respect
        to this rank's rows ``[n, D]``, or ``[0]`` without grads.
    """
    total = len(z0) * _size(group)
    statistics = None if local_statistics else group
    x, inverse_x = _standardised(z0, statistics)
    y, inverse_y = _standardised(z1, statistics)
    d = _add(_column_dots(x, y), group) / total
    with matrix_products(precision, z0.device):
        redundancy, gx, gy = _off_diagonal(x, y, d, total, is_dual(form, total, z0.shape[1]), grads, group)
    terms = torch.stack([(d - 1).square().sum(), redundancy])
    if not grads:
        return terms, x.new_empty(0), x.new_empty(0)
    pull = ((d - 1) * (2 / total)).to(x.dtype)
    results = []
    for g, own, other, inverse in ((gx, x, y, inverse_x), (gy, y, x, inverse_y)):
        g.mul_(2 * lambda_param / total).addcmul_(other, pull)
        share = _add(_column_dots(own, g), statistics) / (len(z0) * _size(statistics))
        results.append((g, own, share.to(x.dtype), inverse))
    for g, own, share, inverse in results:
        g.addcmul_(own, share, value=-1).mul_(inverse)
    return terms, gx, gy


def vicreg_gram(
    z0: Tensor,
    z1: Tensor,
    lambda_param: float,
    mu_param: float,
    nu_param: float,
    eps: float,
    form: str,
    precision: str,
    grads: bool,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of VICReg and the gradient of their weighted sum.

    Of a view with centred rows X, ``v = var`` and ``s = sqrt(v + eps)``:
    ``2 lambda (z - z') / (N D) - mu [s < 1] X / (2 D (N - 1) s) + 4 nu X Cov_off / (D (N - 1))``.

    Args:
        z0, z1, form, precision, grads, group: as in :func:`barlow_gram`.
        lambda_param, mu_param, nu_param: weights of invariance, variance and covariance.
        eps: added to the variance under the root.

    Returns:
        terms ``[3]``: the invariance of this rank's rows, variance and covariance of the whole batch; gradients as
        :func:`barlow_gram` returns them.
    """
    rows, dim = z0.shape
    total = rows * _size(group)
    dual = is_dual(form, total, dim)
    difference = z0.to(compute_dtype(z0.dtype)) - z1
    invariance = _column_dots(difference, difference).sum() / (rows * dim)
    variance = covariance = torch.zeros_like(invariance)
    difference.mul_(2 * lambda_param / (total * dim))
    results = []
    for z, sign in ((z0, 1.0), (z1, -1.0)):
        x, squares = _centred(z, group)
        v = squares / (total - 1)
        s = (v + eps).sqrt()
        variance = variance + (1 - s).clamp_min(0).mean() / 2
        with matrix_products(precision, z0.device):
            off, g, _ = _off_diagonal(x, x, v, total - 1, dual, grads, group)
        covariance = covariance + off / dim
        if grads:
            pull = torch.where(s < 1, s.reciprocal(), 0.0).mul_(mu_param / (2 * dim * (total - 1)))
            g.mul_(4 * nu_param / (dim * (total - 1))).addcmul_(x, pull.to(x.dtype), value=-1)
            results.append(g.add_(difference, alpha=sign))
        else:
            results.append(x.new_empty(0))
    return torch.stack([invariance, variance, covariance]), results[0], results[1]


def _off_diagonal(
    x: Tensor, y: Tensor, d: Tensor, norm: int, dual: bool, grads: bool, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``C = X^T Y / norm``, whose diagonal is d: ``sum_{i != j} C_ij^2``, ``Y C_off^T`` and ``X C_off``.

    The last two are empty without grads, and one tensor if x is y.
    """
    nothing = x.new_empty(0)
    same = x is y
    if dual:
        # the factor goes into the small matrices
        all_x = x if group is None else gather_rows(x, group)
        all_y = all_x if same else (y if group is None else gather_rows(y, group))
        k = torch.mm(x, all_x.T).div_(norm)
        l = k if same else torch.mm(y, all_y.T).div_(norm)  # noqa: E741
        total = _add(_column_dots(k, l).sum(), group) - d.square().sum()
        if not grads:
            return total.clamp_min(0), nothing, nothing
        diagonal = d.to(x.dtype)
        gx = torch.mm(l, all_x).addcmul_(y, diagonal, value=-1)
        return total.clamp_min(0), gx, gx if same else torch.mm(k, all_y).addcmul_(x, diagonal, value=-1)
    c = _add(torch.mm(x.T, y).div_(norm), group)
    c.fill_diagonal_(0)
    total = _column_dots(c, c).sum()
    if not grads:
        return total, nothing, nothing
    gx = torch.mm(y, c.T)
    return total, gx, gx if same else torch.mm(x, c)


def _standardised(z: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Columns of mean 0 and (almost) variance 1, and ``1 / sqrt(var + eps)``, over the rows of all ranks in `group`."""
    x, squares = _centred(z, group)
    inverse = (squares / (len(z) * _size(group)) + BARLOW_EPS).rsqrt().to(x.dtype)
    return x.mul_(inverse), inverse


def _centred(z: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Rows without their mean over all ranks, and the column sums of their squares, in the dtype of per-row values.

    The mean is taken off twice: what rounding left of it would stand for the whole column where that is constant.
    """
    total = len(z) * _size(group)
    wide = compute_dtype(z.dtype)
    mean = _add(z.sum(dim=0, dtype=wide), group) / total
    x = z.to(wide) - mean
    rest = _add(x.new_ones(len(x)) @ x, group) / total
    x.sub_(rest)
    return x, _add(_column_dots(x, x), group)


def _column_dots(x: Tensor, y: Tensor) -> Tensor:
    """``sum_n x_nd y_nd`` in the dtype of per-row values; on a CPU so are the products, which then cannot overflow."""
    wide = vector_dtype(x.device)
    if x.device.type != "cpu":
        return (x * y).sum(dim=0, dtype=wide)
    sums = x.new_zeros(x.shape[1], dtype=wide)
    step = max(1, CHUNK_BYTES // (x.shape[1] * x.itemsize))
    for i in range(0, len(x), step):
        sums += (x[i : i + step].to(wide) * y[i : i + step]).sum(dim=0)
    return sums


def _size(group: ProcessGroup | None) -> int:
    return 1 if group is None else distributed.get_world_size(group)


def _add(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over all ranks, in place."""
    if group is not None:
        distributed.all_reduce(values, group=group)
    return values
