"""Multiple negatives ranking: queries against the documents of the whole batch, hard negatives included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastclr.losses.likely_positives import FilteringLoss
from fastclr.losses.options import RowOptions
from fastclr.losses.row_inputs import check_ids, check_same_rows, log_add, softplus
from fastclr.losses.row_loss import Comparison
from fastclr.parallel import check_same_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MultipleNegativesLoss(FilteringLoss):
    """``loss_i = log(e^(s_ii) + sum over all other documents of e^(s_ij)) - s_ii`` with ``s_ij = <q_i, d_j> / tau``.

    The documents are the positives of all queries and any number of hard negatives. Options drop documents that are
    positives in truth, and add the similarities between queries and between documents to the sum, as Qwen3-Embedding
    trains. O((N + H) D) memory.

    Source: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017; the options: Zhang
    et al., Qwen3 Embedding, 2025.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.05,
        gather_distributed: bool = False,
        *,
        margin: float | None = None,
        query_query: bool = False,
        document_document: bool = False,
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            query_query: also sum over the other queries, ``e^(<q_i, q_j> / tau)``.
            document_document: also sum over the other queries' positives, ``e^(<d_i, d_j> / tau)``.
            temperature, gather_distributed, margin: as in :class:`fastclr.losses.likely_positives.FilteringLoss`; the
                margin is for documents.
            **options: its other options.

        Raises:
            TypeError, ValueError: as there.
        """
        super().__init__(temperature, gather_distributed, margin=margin, **options)
        self.query_query = query_query
        self.document_document = document_document

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
    ) -> Tensor:
        """Loss of every query.

        Args:
            query: ``[N, D]``: float32, float64, float16 or bfloat16, any strides, any device.
            positive: ``[N, D]``, same dtype and device.
            negatives: ``[H, D]`` hard negatives, which every query sees, or None.
            ids: ``[N]`` integers: documents with the id of a query are not its negatives. None for all different.
            negative_ids: ``[H]`` integers; None if no hard negative has the id of a query.

        Returns:
            0-dim, or ``[N]`` for reduction "none"; float64 for float64 inputs and float32 otherwise.

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`; shapes or ids do not fit.
        """
        inputs = {"query": query, "positive": positive}
        check_same_rows(inputs)
        if negatives is not None:
            inputs["negatives"] = negatives
        if ids is not None:
            check_ids("ids", ids, query, query.shape[0])
        if negative_ids is not None:
            if ids is None or negatives is None:
                raise ValueError("negative_ids need ids and negatives")
            check_ids("negative_ids", negative_ids, query, negatives.shape[0])
        comparison = self.compare(inputs)
        if comparison.options.group is not None and negatives is not None:
            check_same_shape(negatives, comparison.options.group, may_be_empty=True)
        with torch.autocast(query.device.type, enabled=False):
            if ids is None and self.margin is None and not (self.query_query or self.document_document):
                ranked = comparison.ranking(query, *(x for x in (positive, negatives) if x is not None))
                if ranked is not None:
                    return ranked
            q, p = comparison.rows(query), comparison.rows(positive)
            hard = None if negatives is None else comparison.rows(negatives)
            similarity = comparison.similarity(q, p)
            limit = comparison.limit(similarity, q.shape[0], self.margin)
            parts = self._parts(comparison, q, p, hard, ids, negative_ids, limit)
            return comparison.reduce(softplus((log_add(*parts) if len(parts) > 1 else parts[0]) - similarity))

    def _parts(
        self,
        comparison: Comparison,
        q: Tensor,
        p: Tensor,
        hard: Tensor | None,
        ids: Tensor | None,
        negative_ids: Tensor | None,
        limit: Tensor | None,
    ) -> list[Tensor]:
        """Log-sum-exps over the parts of the denominator."""
        ids = None if ids is None else ids.long()
        # an id equals itself, so "equal" leaves out the pair itself too
        exclude, twice = ("self", None) if ids is None else ("equal", (ids, None))
        parts = [comparison.lse(q, p, exclude, ids=twice, limit=limit)]
        if hard is not None and negative_ids is not None and ids is not None:
            parts.append(comparison.lse(q, hard, "equal", ids=(ids, negative_ids.long()), limit=limit))
        elif hard is not None:
            parts.append(comparison.lse(q, hard, limit=limit))
        if self.query_query:
            parts.append(comparison.lse(q, None, exclude, ids=twice))
        if self.document_document:
            parts.append(comparison.lse(p, None, exclude, ids=twice))
        return parts
