"""InfoNCE: a query, its positive, and negatives from the batch, a common set, a queue, or a set of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from fastclr.losses.likely_positives import FilteringLoss
from fastclr.losses.row_inputs import check_ids, check_same_rows, softplus
from fastclr.losses.row_loss import Comparison
from fastclr.losses.row_stats import dense_part
from fastclr.parallel import check_same_shape


class InfoNCELoss(FilteringLoss):
    """``loss_i = log(e^(s_i) + sum_k e^(<q_i, n_k> / tau)) - s_i`` with ``s_i = <q_i, p_i> / tau``.

    The negatives n are a set for all queries (a queue, too), one set per query, or the positives of the other queries.
    O((N + K) D) memory.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018; with a queue, He et
    al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020.
    """

    def forward(
        self, query: Tensor, positive: Tensor, negatives: Tensor | None = None, *, ids: Tensor | None = None
    ) -> Tensor:
        """Loss of every query.

        Args:
            query: ``[N, D]``: float32, float64, float16 or bfloat16, any strides, any device.
            positive: ``[N, D]``, same dtype and device.
            negatives: ``[K, D]`` for all queries, ``[N, K, D]`` for one set per query, or None for the positives of the
                other queries. K may be 0; the loss is 0 then. With gather_distributed those of all ranks count, except
                one set per query: pass a queue that is the same on every rank to a loss that does not gather.
            ids: ``[N]`` integers, only without negatives: positives with the id of a query are not its negatives. None
                for all different.

        Returns:
            0-dim, or ``[N]`` for reduction "none"; float64 for float64 inputs and float32 otherwise.

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`, or the shapes do not fit.
        """
        inputs = {"query": query, "positive": positive}
        check_same_rows(inputs)
        if negatives is not None:
            inputs["negatives"] = self._flat(query, negatives)
        if ids is not None:
            if negatives is not None:
                raise ValueError(
                    "ids are those of the batch: pass them without negatives, or use MultipleNegativesLoss"
                )
            check_ids("ids", ids, query, query.shape[0])
            ids = ids.long()
        comparison = self.compare(inputs)
        if comparison.options.group is not None and negatives is not None and negatives.dim() == 2:
            check_same_shape(negatives, comparison.options.group, may_be_empty=True)
        with torch.autocast(query.device.type, enabled=False):
            plain = negatives is None and ids is None and self.margin is None
            ranked = comparison.ranking(query, positive) if plain else None
            if ranked is not None:
                return ranked
            q, p = comparison.rows(query), comparison.rows(positive)
            similarity = comparison.similarity(q, p)
            limit = comparison.limit(similarity, q.shape[0], self.margin)
            others = self._negatives(comparison, q, p, negatives, ids, limit)
            return comparison.reduce(softplus(others - similarity))

    @staticmethod
    def _flat(query: Tensor, negatives: Tensor) -> Tensor:
        """The negatives as rows; a ValueError if a set per query has another number of sets."""
        if not isinstance(negatives, Tensor):
            raise TypeError(f"negatives must be a tensor, got {type(negatives).__name__}")
        if negatives.dim() == 3 and negatives.shape[0] == query.shape[0]:
            return negatives.flatten(0, 1)
        if negatives.dim() == 2:
            return negatives
        raise ValueError(
            f"negatives must be [K, D] or [{query.shape[0]}, K, D], one set per query, got {list(negatives.shape)}"
        )

    @staticmethod
    def _negatives(
        comparison: Comparison,
        q: Tensor,
        p: Tensor,
        negatives: Tensor | None,
        ids: Tensor | None,
        limit: Tensor | None,
    ) -> Tensor:
        """Log-sum-exp over the negatives of every query of all ranks."""
        if ids is not None:
            return comparison.lse(q, p, exclude="equal", ids=(ids, None), limit=limit)
        if negatives is None:
            return comparison.lse(q, p, exclude="self", limit=limit)
        if negatives.dim() == 2:
            return comparison.lse(q, comparison.rows(negatives), limit=limit)
        # a row's own negatives: the similarities are smaller than the negatives themselves
        sets = comparison.rows(negatives.flatten(0, 1)).view(negatives.shape)
        s = torch.linalg.vecdot(q[:, None], sets).to(comparison.scale.dtype) * comparison.scale
        if limit is not None:
            s = s.masked_fill(s > limit[:, None], -torch.inf)
        if comparison.watch is not None:
            comparison.watch.note(dense_part(s.detach()))
        if negatives.shape[1] == 0:
            return comparison.every(s.new_full((q.shape[0],), -torch.inf))
        return comparison.every(torch.logsumexp(s, dim=1))
