"""NT-Xent with the call conventions of google-research/simclr."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from fastclr.losses import nt_xent


@overload
def add_contrastive_loss(
    hidden: Tensor, hidden_norm: bool = ..., temperature: float = ..., *, return_logits: Literal[False] = ...
) -> Tensor:
    """Return the loss."""


@overload
def add_contrastive_loss(
    hidden: Tensor, hidden_norm: bool = ..., temperature: float = ..., *, return_logits: Literal[True]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the logits and the labels."""


def add_contrastive_loss(
    hidden: Tensor, hidden_norm: bool = True, temperature: float = 1.0, *, return_logits: bool = False
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """``objective.add_contrastive_loss`` of google-research/simclr: ``loss_a + loss_b``, twice the mean over the rows.

    The original always returns the logits, an N by N matrix; here they are optional. Its normalisation clamps the
    squared length at 1e-12, this one the length: the two differ for rows shorter than 1e-6.

    Args:
        hidden: ``[2N, D]``, view 0 and then view 1.
        hidden_norm: scale the rows to unit length.
        temperature: tau.
        return_logits: also return what the original does, for its metrics.

    Returns:
        0-dim loss; with return_logits also ``logits_ab`` ``[N, N]``, view 0 against view 1, and one-hot ``labels``
        ``[N, 2N]``, both without gradient.

    Raises:
        ValueError: an odd number of rows.
    """
    if hidden.dim() != 2 or len(hidden) % 2:
        raise ValueError(f"hidden must be [2N, D], two views one after the other, got {list(hidden.shape)}")
    z0, z1 = hidden.chunk(2)
    loss = 2 * nt_xent(z0, z1, temperature, normalize=hidden_norm)
    if not return_logits:
        return loss
    with torch.no_grad():
        first, second = (nn.functional.normalize(z, dim=1) if hidden_norm else z for z in (z0, z1))
        labels = torch.eye(len(z0), 2 * len(z0), dtype=hidden.dtype, device=hidden.device)
        return loss, first @ second.T / temperature, labels
