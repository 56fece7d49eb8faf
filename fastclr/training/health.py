"""Watching for collapse: how much the embeddings of a batch vary, and in how many directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fastclr.evaluate.diagnostics import effective_rank
from fastclr.training.metric_names import STD

COLLAPSED = 0.1  # of the standard deviation of unit vectors that are spread evenly
PATIENCE = 100  # steps
RANKED = 256  # embeddings from which the effective rank is estimated


class Health:
    """Two numbers of the last embeddings of a method (the other view's, or a target's): `health/std`, `health/rankme`.

    ``embedding_std``: standard deviation of the unit embeddings over the images of a process, the mean over the
    dimensions, times sqrt(D): 1 where they are spread evenly, 0 where they are all alike. ``embedding_rank``: the
    effective rank of at most 256 of them, in the last step of a record.

    Args:
        watched: whether to compute them; otherwise there are none.

    Source: Chen and He, Exploring Simple Siamese Representation Learning, 2021, section 4.1; for the rank, see
    `fastclr.evaluate.diagnostics.effective_rank`.
    """

    def __init__(self, watched: bool) -> None:
        self.watched = watched
        self.last: Tensor | None = None

    def observe(self, embedding: Tensor) -> dict[str, Tensor]:
        """Return the standard deviation of embeddings ``[n, D]``, 0-dim, and keep some for the rank."""
        if not self.watched or embedding.dim() != 2 or len(embedding) < 2:
            return {}
        unit = F.normalize(embedding.detach().float(), dim=1)
        self.last = unit[:RANKED]
        return {"embedding_std": unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5}

    def scalars(self) -> dict[str, float]:
        """Return the effective rank of the last step's embeddings."""
        last, self.last = self.last, None
        if last is None or not bool(last.isfinite().all()):
            return {}
        # the singular values of a matrix are those of its transpose, and the smaller of both products is enough
        return {"embedding_rank": effective_rank(last.T if last.shape[0] < last.shape[1] else last)}


def find_collapse(records: Sequence[Mapping[str, Any]], cause: str) -> str | None:
    """Return a warning if the embeddings did not vary in the last 100 steps or more.

    Args:
        records: the log, oldest first.
        cause: the usual cause with this method.
    """
    train = [record for record in records if record.get("kind") == "train"]
    low = len(train)
    while low and train[low - 1].get(STD, COLLAPSED) < COLLAPSED:
        low -= 1
    steps = train[-1]["step"] - (train[low - 1]["step"] if low else 0) if train else 0
    if low == len(train) or steps < PATIENCE:
        return None
    return (
        f"the embeddings have collapsed: for {steps} steps their standard deviation is below "
        f"{COLLAPSED:g} of that of evenly spread ones. {cause}"
    )
