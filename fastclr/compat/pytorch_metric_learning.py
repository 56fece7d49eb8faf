"""Losses with the call conventions of pytorch-metric-learning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent
from fastclr.losses.class_sums import number_classes
from fastclr.losses.positive_pairs import nt_xent_of_pairs, pair_counts
from fastclr.losses.row_loss import Comparison, RowLoss
from fastclr.losses.scalars import checked_factor
from fastclr.losses.sup_con import sup_con_rows

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


# its wrappers ask for its base class and for the names of its losses, so that a drop-in must be one of them
_OriginalNTXent: Any = nn.Module
_OriginalSupCon: Any = nn.Module
try:
    from pytorch_metric_learning import distances, losses, reducers
    from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs

    _OriginalNTXent, _OriginalSupCon = losses.NTXentLoss, losses.SupConLoss
except ModuleNotFoundError:
    pass


def _check_installed() -> None:
    if _OriginalNTXent is nn.Module:
        raise ModuleNotFoundError("this loss extends that of pytorch-metric-learning, which is not installed")


def _is_plain(loss: Any, reducer: type) -> bool:
    """Whether similarities are cosines and the losses are reduced as they are by default."""
    distance = loss.distance
    cosine = type(distance) is distances.CosineSimilarity and distance.normalize_embeddings
    plain = cosine and distance.p == 2 and distance.power == 1 and loss.embedding_regularizer is None
    return plain and type(loss.reducer) is reducer


def _reduced(loss: Tensor) -> dict[str, Any]:
    return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}


class NTXentLoss(_OriginalNTXent):  # type: ignore[misc]
    """``pytorch_metric_learning.losses.NTXentLoss`` with any labels, in O(N D) memory instead of a list of all pairs.

    The mean over positive pairs of ``softplus(nlse_i - s_ip)``, nlse being the log-sum-exp over the rows of other
    labels. It works inside ``SelfSupervisedLoss``, ``CrossBatchMemory`` and ``DistributedLossWrapper``. With explicit
    pairs (`indices_tuple`; CrossBatchMemory makes them), another distance than cosine similarity or another reducer
    than the mean, the original computes. It caps a pair's loss at 87 in float32 (it adds the smallest number inside the
    logarithm), which this does not; half precision is computed in float32.

    Raises:
        ModuleNotFoundError: pytorch-metric-learning is not installed.
    """

    def __init__(self, temperature: float = 0.07, **kwargs: Any) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau, finite and not 0.
            **kwargs: reducer, distance, embedding_regularizer and the like, see the original.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: it is zero or not finite.
        """
        _check_installed()
        super().__init__(temperature=checked_factor("temperature", temperature), **kwargs)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Any:
        """What the original's ``forward`` calls, with what it reduces."""
        plain = _is_plain(self, reducers.MeanReducer)
        if indices_tuple is not None or labels is None or ref_labels is None or not plain:
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        skip_self = ref_labels is labels
        positive, negative = pair_counts(labels, ref_labels, skip_self)
        # the original returns 0 without pairs of both kinds, and for a single pair of each
        if positive == 0 or negative == 0 or max(positive, negative) <= 1:
            return self.zero_losses()
        loss = nt_xent_of_pairs(embeddings, ref_emb, labels, ref_labels, self.temperature, skip_self, positive)
        return _reduced(loss)


class MetricLearningNTXentLoss(nn.Module):
    """``pytorch_metric_learning.losses.NTXentLoss`` for two views: embeddings ``[2N, D]`` and labels ``[2N]``.

    Same value: the mean over the 2N positive pairs, for cosine similarity and the default reducer. The original builds
    several matrices of pairs by negatives, 4 (2N)^2 (2N - 2) bytes each; this one needs O(N D).
    ``SelfSupervisedLoss(NTXentLoss(t))(a, b)`` is ``fastclr.NTXentLoss(t)(a, b)``.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        """Check and store the temperature.

        Args:
            temperature: tau, finite and not 0.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: it is zero or not finite.
        """
        super().__init__()
        self.temperature = checked_factor("temperature", temperature)

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
            embeddings: ``[2N, D]`` floating-point, in any order.
            labels: ``[2N]`` integers, each value exactly twice: of more, the original counts every pair separately,
                and of fewer it returns 0.
            indices_tuple, ref_emb, ref_labels: must be None: with mined pairs or reference embeddings the loss differs.

        Returns:
            0-dim tensor.

        Raises:
            TypeError: labels are not an integer tensor.
            ValueError: an argument asks for another loss, see above.
        """
        if labels is None or indices_tuple is not None or ref_emb is not None or ref_labels is not None:
            raise ValueError(
                "this adaptor takes embeddings and labels only, without mined pairs or reference embeddings"
            )
        first, second = pair_rows(labels, len(embeddings))
        return nt_xent(embeddings[first], embeddings[second], self.temperature)


class SupConLoss(_OriginalSupCon):  # type: ignore[misc]
    """``pytorch_metric_learning.losses.SupConLoss``, L_out, in O(M D) memory with labels.

    The mean over the anchors whose loss is above 0; 0 if there is no positive or no negative pair. It works inside
    ``SelfSupervisedLoss``, ``CrossBatchMemory`` and ``DistributedLossWrapper``. With explicit pairs (`indices_tuple`)
    memory grows as their number times D. Another distance than cosine similarity, another reducer, and labels of
    reference embeddings without pairs are computed by the original.

    Raises:
        ModuleNotFoundError: pytorch-metric-learning is not installed.
    """

    def __init__(self, temperature: float = 0.1, **kwargs: Any) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau, finite and not 0.
            **kwargs: reducer, distance, embedding_regularizer and the like, see the original.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: it is zero or not finite.
        """
        _check_installed()
        super().__init__(temperature=checked_factor("temperature", temperature), **kwargs)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Any:
        """What the original's ``forward`` calls, with what it reduces."""
        labelled = indices_tuple is None and labels is not None and ref_emb is embeddings
        if not _is_plain(self, reducers.AvgNonZeroReducer) or not (labelled or indices_tuple is not None):
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        comparison = RowLoss(self.temperature).compare({"embeddings": embeddings, "ref_emb": ref_emb})
        with torch.autocast(embeddings.device.type, enabled=False):
            z = comparison.rows(embeddings)
            if labelled and labels is not None:
                # no label is special here, -1 neither
                loss = self._labelled(comparison, z, labels.long() - labels.min())
            else:
                others = z if ref_emb is embeddings else comparison.rows(ref_emb)
                loss = self._listed(comparison, z, others, convert_to_pairs(indices_tuple, labels, ref_labels))
            return _reduced(loss.to(comparison.dtype))

    def _labelled(self, comparison: Comparison, z: Tensor, labels: Tensor) -> Tensor:
        rows, _ = sup_con_rows(comparison, z, number_classes(labels), "out")
        several: Tensor = (labels != labels[:1]).any()
        return positive_mean(rows) * several.to(rows.dtype)

    def _listed(self, comparison: Comparison, z: Tensor, others: Tensor, pairs: Pairs) -> Tensor:
        anchor, positive, against, negative = pairs
        s = similarities(comparison, z, others, anchor, positive)
        rest = similarities(comparison, z, others, against, negative)
        total = listed_lse(torch.cat([s, rest]), torch.cat([anchor, against]), len(z))
        count = torch.zeros_like(total).index_add(0, anchor, torch.ones_like(s))
        mean = torch.zeros_like(total).index_add(0, anchor, s) / count.clamp_min(1.0)
        rows = torch.where(count > 0, total - mean, 0.0)
        mean_loss = positive_mean(rows)
        return mean_loss if len(anchor) > 0 and len(against) > 0 else 0.0 * mean_loss


def similarities(comparison: Comparison, z: Tensor, others: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``s`` of a list of pairs."""
    dots: Tensor = torch.linalg.vecdot(z[left], others[right])
    return dots.to(comparison.scale.dtype) * comparison.scale


def listed_lse(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Log-sum-exp of the values of every row ``[count]``; -inf for a row without any."""
    top = values.new_full((count,), -math.inf).index_reduce(0, rows, values.detach(), "amax")
    some = top > -math.inf
    sums = torch.zeros_like(top).index_add(0, rows, (values - top[rows]).exp())
    return torch.where(some, sums.masked_fill(~some, 1.0).log() + top.masked_fill(~some, 0.0), -math.inf)


def positive_mean(rows: Tensor) -> Tensor:
    """Mean over the losses above 0, and 0 if there is none."""
    total: Tensor = rows.clamp_min(0.0).sum()
    return total / (rows > 0).sum().clamp_min(1)
