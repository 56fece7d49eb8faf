"""The specification of ``softplus_pairs``: dense plain PyTorch, differentiable any number of times."""

from __future__ import annotations

import torch
from torch import Tensor


def softplus_pairs(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    bias: Tensor,
    include: str = "all",
    ids: tuple[Tensor, Tensor] | None = None,
    activation: str = "softplus",
) -> Tensor:
    """``sum_{j included} f(scale <q_i, k_j> + bias_i)`` of every row; it stores the ``[n, m]`` matrix.

    Args:
        q: ``[n, D]`` rows, float32 or float64.
        k: ``[m, D]`` columns.
        scale: 0-dim.
        bias: 0-dim or ``[n]``.
        include: "all", "others" (all but the column of the row's number), "negatives" (neither the row itself nor its
            positive, where rows and columns are view 0 and then view 1), "same_id", or "same_id_others" (both).
        ids: ``[n]`` and ``[m]`` integers for the last two.
        activation: f: "softplus", ``log(1 + e^s)``, or "hinge", ``max(0, s)``.

    Returns:
        ``[n]``, in the dtype of the rows.
    """
    s = scale.to(q.dtype) * (q @ k.T) + bias.to(q.dtype).reshape(-1, 1)
    values = torch.logaddexp(s, torch.zeros_like(s)) if activation == "softplus" else torch.relu(s)
    return values.masked_fill(~included(len(q), len(k), include, ids, q.device), 0.0).sum(1)


def included(rows: int, columns: int, include: str, ids: tuple[Tensor, Tensor] | None, device: torch.device) -> Tensor:
    """Which pairs count, ``[n, m]``."""
    row, column = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)
    mask = torch.ones(rows, columns, dtype=torch.bool, device=device)
    if include in ("others", "negatives", "same_id_others"):
        mask &= row != column
    if include == "negatives":
        mask &= row != (column + rows // 2) % rows
    if include.startswith("same_id") and ids is not None:
        mask &= ids[0][:, None] == ids[1]
    return mask
