"""The specification of the operator ``lse``: row and column log-sum-exps of a dense similarity matrix.

``impl="reference"`` of the row-softmax losses calls it; no fast path does. It is differentiable any number of times.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lse(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    limit: Tensor | None,
    exclude: str,
) -> tuple[Tensor, Tensor]:
    """``log sum exp(s)`` over the columns of every row and over the rows of every column, ``s = scale Q K^T``.

    Args:
        rows: Q ``[n, D]``, float32 or float64.
        columns: K ``[m, D]``.
        scale: 0-dim.
        row_ids: ``[n]`` integers, for "equal" and "other".
        column_ids: ``[m]`` integers.
        limit: ``[n]``; pairs with ``s_ij > limit_i`` do not count. None for no limit.
        exclude: the pairs that do not count: "nothing", "self" (i = j), "pair" (self, and the other of the two views
            that are stacked in Q and K), "equal" (equal ids), or "other" (other ids, and self).

    Returns:
        ``[n]`` and ``[m]``; -inf where nothing counts.
    """
    s = rows @ columns.T * scale
    n, m = s.shape
    lag = torch.arange(m, device=s.device)[None, :] - torch.arange(n, device=s.device)[:, None]
    out = torch.zeros_like(lag, dtype=torch.bool)
    if exclude in ("self", "pair", "other"):
        out = lag == 0
    if exclude == "pair":
        out = out | (lag.abs() == n // 2)
    if row_ids is not None and column_ids is not None:
        same = row_ids[:, None] == column_ids[None, :]
        out = out | (same if exclude == "equal" else ~same)
    if limit is not None:
        out = out | (s.detach() > limit[:, None])
    s = s.masked_fill(out, -torch.inf)
    return torch.logsumexp(s, dim=1), torch.logsumexp(s, dim=0)
