"""NT-Xent with the call conventions of pytorch-metric-learning."""

from __future__ import annotations

from torch import Tensor, nn

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent
from fastclr.losses.inputs import check_temperature


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
