"""What the pretext tasks share: tell which of K things was done to an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.device import vector_dtype
from fastclr.methods.encoders import feature_dim
from fastclr.methods.heads import output_width
from fastclr.methods.one_branch import OneBranch, widened
from fastclr.methods.options import MethodOptions


@dataclass(frozen=True, kw_only=True)
class OneViewOptions(MethodOptions):
    """The options of methods that compare no views."""

    @property
    def view_count(self) -> int:
        """Number of views of an image."""
        return 1


class OneView(OneBranch):
    """A method whose loss looks at one view of an image, and whose networks beside the encoder depend on sizes."""

    def width(self) -> int:
        """Return the dimension of the projections, or of the features if there is no head."""
        return output_width(self.head) or feature_dim(self.encoder, self.size)

    @property
    def size(self) -> int:
        """Side of the views in pixels."""
        config = self.views.config
        return (config[0] if isinstance(config, tuple) else config).size


class Pretext(OneView):
    """``loss = -mean_i 1/K sum_k log softmax(l_ik)_k`` over K things that are done to every image, told by logits l.

    All K are done to every image, none is drawn: the task has no randomness of its own.
    """

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy of the logits ``[n, K, K]``, and the share that is told right."""
        logits = widened(embeddings[0])
        kinds = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        right = (logits.detach().argmax(dim=2) == kinds).to(vector_dtype(logits.device)).mean()
        return F.cross_entropy(logits.flatten(0, 1), kinds.flatten()), {"task_accuracy": right}
