"""The specification of NT-Xent: its definition in dense plain PyTorch, differentiable any number of times.

``nt_xent(..., impl="reference")`` calls it; no fast path does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastclr.losses.inputs import reduce_rows, unit_rows


def logits_of(z0: Tensor, z1: Tensor, temperature: float | Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Similarities of all 2N rows, ``<z_i, z_j> / tau`` with -inf for ``i == j``, and of every row with its positive.

    Args:
        z0: ``[N, D]``, first view. float64 stays float64, everything else is computed in float32.
        z1: ``[N, D]``, second view.
        temperature: tau, a number or a 0-dim tensor.
        normalize: scale the rows to unit length first.

    Returns:
        Logits ``[2N, 2N]`` and positives ``[2N]``. Rows are view 0 and then view 1: the positive of row i is
        row ``(i + N) mod 2N``.
    """
    rows = torch.cat([z0, z1])
    rows = rows if rows.dtype == torch.float64 else rows.float()
    rows = unit_rows(rows) if normalize else rows
    logits = rows @ rows.T / temperature
    itself = torch.eye(rows.shape[0], dtype=torch.bool, device=rows.device)
    positive = (rows * rows.roll(z0.shape[0], 0)).sum(dim=1) / temperature
    return logits.masked_fill(itself, -torch.inf), positive


def nt_xent(
    z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.5, *, normalize: bool = True, reduction: str = "mean"
) -> Tensor:
    """NT-Xent: ``loss_i = log sum_{j != i} exp(s_ij) - s_ip`` with ``s_ij = <z_i, z_j> / tau``, p the positive of i.

    Every faster path is tested against this. It stores the full ``[2N, 2N]`` similarity matrix.

    Args:
        z0: ``[N, D]`` embeddings of the first view, floating, any device.
        z1: ``[N, D]`` embeddings of the second view: ``z1[i]`` is the positive of ``z0[i]``.
        temperature: tau, any number but 0, or a 0-dim tensor (differentiable).
        normalize: scale the rows to unit length first (see :func:`unit_rows`).
        reduction: "mean" over the 2N rows, "sum", or "none".

    Returns:
        0-dim tensor, or ``[2N]`` for "none" (view 0, then view 1). float64 for float64 inputs, otherwise float32.

    Raises:
        ValueError: unknown reduction.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, equation 1.
    """
    logits, positive = logits_of(z0, z1, temperature, normalize)
    return reduce_rows(torch.logsumexp(logits, dim=1) - positive, reduction)


def nt_xent_stats(
    z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.5, *, normalize: bool = True
) -> tuple[Tensor, Tensor]:
    """Contrastive accuracy and entropy of every row, over the N candidates of the other view.

    ``correct_i = [s_ip >= max_j s_ij]`` and ``entropy_i = -sum_j p_ij log p_ij`` with ``p_i = softmax_j(s_ij)``.

    Args:
        z0: ``[N, D]``, first view.
        z1: ``[N, D]``, second view.
        temperature: tau, a number or a 0-dim tensor.
        normalize: scale the rows to unit length first.

    Returns:
        correct ``[2N]`` (0 or 1) and entropy ``[2N]`` in nats, without gradient.

    Source: the metrics of google-research/simclr, Table 5 of the paper.
    """
    with torch.no_grad():
        logits, _ = logits_of(z0, z1, temperature, normalize)
        pairs = z0.shape[0]
        across = torch.cat([logits[:pairs, pairs:], logits[pairs:, :pairs]])
        own = torch.arange(pairs, device=z0.device).repeat(2)
        correct = across.gather(1, own[:, None]).squeeze(1) >= across.amax(dim=1)
        return correct.to(across.dtype), torch.special.entr(across.softmax(dim=1)).sum(dim=1)
