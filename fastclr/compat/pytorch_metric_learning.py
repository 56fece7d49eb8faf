"""NT-Xent with the call conventions of pytorch-metric-learning."""

from __future__ import annotations

from torch import Tensor, nn

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent
from fastclr.losses.inputs import check_temperature


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
