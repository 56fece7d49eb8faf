"""NT-Xent with the call conventions of pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent
from fastclr.losses.inputs import check_temperature
from fastclr.losses.positive_pairs import nt_xent_of_pairs, pair_counts

# its wrappers ask for its base class and for the names of its losses, so that a drop-in must be one of them
_Original: Any = nn.Module
try:
    from pytorch_metric_learning import distances, reducers
    from pytorch_metric_learning.losses import NTXentLoss as _Found

    _Original = _Found
except ModuleNotFoundError:
    pass


class NTXentLoss(_Original):  # type: ignore[misc]
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
        if _Original is nn.Module:
            raise ModuleNotFoundError("this loss extends that of pytorch-metric-learning, which is not installed")
        check_temperature(temperature)
        super().__init__(temperature=temperature, **kwargs)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Any:
        """What the original's ``forward`` calls, with what it reduces."""
        if indices_tuple is not None or labels is None or ref_labels is None or not self._is_default():
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        skip_self = ref_labels is labels
        positive, negative = pair_counts(labels, ref_labels, skip_self)
        # the original returns 0 without pairs of both kinds, and for a single pair of each
        if positive == 0 or negative == 0 or max(positive, negative) <= 1:
            return self.zero_losses()
        loss = nt_xent_of_pairs(embeddings, ref_emb, labels, ref_labels, self.temperature, skip_self, positive)
        return {"loss": {"losses": loss, "indices": None, "reduction_type": "already_reduced"}}

    def _is_default(self) -> bool:
        """Whether similarities are cosines and the losses of pairs are averaged."""
        distance = self.distance
        cosine = type(distance) is distances.CosineSimilarity and distance.normalize_embeddings
        plain = cosine and distance.p == 2 and distance.power == 1 and self.embedding_regularizer is None
        return plain and type(self.reducer) is reducers.MeanReducer


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
