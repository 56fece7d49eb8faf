"""What BYOL, SimSiam and MoCo v3 share: a predictor, and targets that get no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.methods.base import Views
from fastclr.methods.heads import build_head, projected_width
from fastclr.methods.one_branch import OneBranch, widened
from fastclr.methods.twin import MomentumTwin, ramped_momentum


class Predicting(OneBranch):
    """Predictions p = q(g(f(x))) of one view meet the target t of the other: of a momentum twin, or the projection.

    Attributes:
        has_twin: whether the targets come from a momentum twin of encoder and head.
        predictor_end: what the predictor's last layer has, see `build_head`.
        predictor: q.
        twin: the momentum twin, if there is one.
    """

    has_twin: ClassVar[bool] = True
    predictor_end: ClassVar[str] = "none"
    predictor: nn.Module
    twin: MomentumTwin | None

    def extend(self) -> None:
        """Add predictor and twin; a ValueError without a projection head."""
        dim = projected_width(self.head, self.title)
        hidden = self.options.predictor_hidden
        self.predictor = build_head("mlp", dim, dim, 2, hidden, True, self.predictor_end)
        self.twin = MomentumTwin(self.encoder, self.head) if self.has_twin else None

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of both views ``[2n, F]``, predictions p0, p1 and targets t0, t1, ``[n, D]``."""
        h, projections = self.project(views)
        targets = tuple(z.detach() for z in projections) if self.twin is None else self.each(self.twin, views)
        return h, (*self.each(self.predictor, projections), *targets)

    def after_step(self, step: int, total: int) -> None:
        """Move the twin, if there is one."""
        if self.twin is not None:
            self.twin.follow(self.encoder, self.head, momentum=self.momentum(step, total))

    def momentum(self, step: int, total: int) -> float:
        """Return the momentum of the twin after this step: from that of the options to 1."""
        return ramped_momentum(self.options.momentum, step, total)


def cross_similarities(embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean cosines ``<p0, t1>`` and ``<p1, t0>`` of unit vectors, 0-dim, in at least float32."""
    p0, p1, t0, t1 = (widened(each) for each in embeddings)
    first, second = F.cosine_similarity(p0, t1), F.cosine_similarity(p1, t0)
    return first.mean(), second.mean()
