"""The loss with the call conventions of other libraries; lightly's are those of :class:`fastclr.NTXentLoss` itself.

All are two-view NT-Xent. Cases of the original that are no two-view NT-Xent are refused.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, distributed, nn

from fastclr.loss_options import check_temperature
from fastclr.losses import nt_xent


def pair_rows(ids: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Indices of the first and the second row of every sample.

    Args:
        ids: ``[2N]`` integers; every value must occur exactly twice. The check waits for the device.
        rows: number of rows the ids should name.

    Returns:
        Two index tensors ``[N]``.

    Raises:
        TypeError: ids that are no integer tensor.
        ValueError: another number of ids than rows, or a sample that does not occur exactly twice.
    """
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"labels must be an integer tensor, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.dim() != 1 or len(ids) != rows:
        raise ValueError(f"expected one label for each of the {rows} rows, got {list(ids.shape)}")
    _, counts = ids.unique(return_counts=True)
    if not bool((counts == 2).all()):
        found = sorted(set(counts.tolist()))
        raise ValueError(f"two views need every label exactly twice, got labels that occur {found} times")
    order = ids.argsort(stable=True)
    return order[0::2], order[1::2]


class MetricLearningNTXentLoss(nn.Module):
    """``pytorch_metric_learning.losses.NTXentLoss`` for two views: embeddings ``[2N, D]`` and labels ``[2N]``.

    Same value: the mean over the 2N positive pairs, for cosine similarity and the default reducer. That library forms a
    matrix of pairs by pairs, 4 (2N)^2 (2N - 2) bytes and several of them at once; this one keeps O(N D).
    ``SelfSupervisedLoss(NTXentLoss(t))(a, b)`` is ``fastclr.NTXentLoss(t)(a, b)``.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        """Keep the temperature.

        Args:
            temperature: tau, finite and not 0.

        Raises:
            TypeError: no number.
            ValueError: zero or not finite.
        """
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: None = None,
        ref_emb: None = None,
        ref_labels: None = None,
    ) -> Tensor:
        """Mean loss over the positive pairs.

        Args:
            embeddings: ``[2N, D]`` floating, in any order.
            labels: ``[2N]`` integers, every value exactly twice: with more the original counts each pair alone, with
                fewer it returns 0.
            indices_tuple, ref_emb, ref_labels: must stay None: mined pairs and reference embeddings are other losses.

        Returns:
            0-dim tensor.

        Raises:
            TypeError: labels that are no integer tensor.
            ValueError: what this loss is not, see above.
        """
        if labels is None or indices_tuple is not None or ref_emb is not None or ref_labels is not None:
            raise ValueError(
                "this adaptor takes embeddings and labels only, without mined pairs or reference embeddings"
            )
        first, second = pair_rows(labels, len(embeddings))
        return nt_xent(embeddings[first], embeddings[second], self.temperature)


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """``solo.losses.simclr.simclr_loss_func`` for two views, ``-mean_i log(pos_i / (pos_i + neg_i))``.

    With more than two views the original puts the sum of the positives inside the logarithm, which is another loss. It
    gathers over all ranks whenever torch.distributed is initialised, and so does this. It takes exp without a shift,
    which overflows in float16; this does not.

    Args:
        z: ``[2N, D]`` floating, in any order.
        indexes: ``[2N]`` integers, every sample exactly twice. Samples of other ranks are taken to be different ones.
        temperature: tau.

    Returns:
        0-dim tensor.

    Raises:
        TypeError: indexes that are no integer tensor.
        ValueError: a sample that does not occur exactly twice.
    """
    first, second = pair_rows(indexes, len(z))
    running = distributed.is_available() and distributed.is_initialized()
    return nt_xent(z[first], z[second], temperature, group=distributed.group.WORLD if running else None)


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

    The original always returns the logits, which are a matrix of N by N; here only on request. Its normalisation bounds
    the squared length by 1e-12, this one the length: they differ for rows shorter than 1e-6.

    Args:
        hidden: ``[2N, D]``, view 0 and then view 1.
        hidden_norm: bring the rows to unit length.
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
