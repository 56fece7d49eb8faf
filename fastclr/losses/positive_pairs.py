"""NT-Xent over arbitrary labels: the mean over positive pairs, as pytorch-metric-learning counts them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastclr.losses.inputs import select_impl, tile_precision, unit_rows
from fastclr.losses.lse_op import LSEOptions, lse
from fastclr.losses.scalars import factor_tensor
from fastclr.losses.softplus_op import SoftplusOptions, softplus_pairs
from fastclr.losses.tiles import compute_dtype, vector_dtype

# the log-sum-exp over negatives alone: of any scale, on one process
NEGATIVES = LSEOptions(impl="blockwise", shift="online", precision="auto", deterministic=False, group=None)


def pair_counts(labels: Tensor, others: Tensor, skip_self: bool) -> tuple[int, int]:
    """How many pairs have equal labels, and how many different ones, without a matrix of pairs."""
    kinds, inverse = torch.cat([labels, others]).unique(return_inverse=True)
    rows = torch.bincount(inverse[: len(labels)], minlength=len(kinds))
    columns = torch.bincount(inverse[len(labels) :], minlength=len(kinds))
    equal = int((rows * columns).sum())
    return equal - (len(labels) if skip_self else 0), len(labels) * len(others) - equal


def nt_xent_of_pairs(
    rows: Tensor,
    columns: Tensor,
    labels: Tensor,
    others: Tensor,
    temperature: float | Tensor,
    skip_self: bool,
    pairs: int,
) -> Tensor:
    """``mean over positive pairs of softplus(nlse_i - s_ip)``, nlse over the columns of other labels; unit rows.

    Args:
        rows: ``[n, D]`` embeddings.
        columns: ``[m, D]``, what they are compared with (rows itself, or a memory).
        labels: ``[n]`` integers.
        others: ``[m]`` integers.
        temperature: tau.
        skip_self: row i and column i are one embedding, and no pair.
        pairs: number of positive pairs, at least 1.

    Returns:
        0-dim, float64 for float64 rows, otherwise float32.
    """
    wide = compute_dtype(rows.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        q = unit_rows(rows.to(wide))
        k = q if columns is rows else unit_rows(columns.to(wide))
        scale = factor_tensor("temperature", temperature, rows, vector_dtype(rows.device)).reciprocal()
        impl = select_impl("auto", rows)
        precision = tile_precision(impl, "auto", rows.dtype)
        negatives = NEGATIVES._replace(impl=impl, precision=precision)
        nlse, _ = lse(q, k, scale, negatives, exclude="equal", ids=(labels, others))
        options = SoftplusOptions("same_id_others" if skip_self else "same_id", precision=precision, impl=impl)
        return (softplus_pairs(q, k, -scale, nlse.to(scale.dtype), options, (labels, others)) / pairs).to(wide)
