"""Losses with the call conventions of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.losses.row_inputs import check_same_rows, log_add, softplus
from fastclr.losses.row_loss import Comparison, RowLoss

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


class MultipleNegativesRankingLoss(nn.Module):
    """``sentence_transformers``' loss of that name for cosine similarity: the same values in O(N D) memory.

    Over several ranks the original's gradient is exact too; here the backward communicates nothing.
    """

    def __init__(
        self,
        model: nn.Module | None,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        """Take the original's arguments.

        Args:
            model: makes ``{"sentence_embedding": [N, D]}`` of the features of a column; None if only
                :meth:`compute_loss_from_embeddings` is called.
            scale: 1 / temperature.
            similarity_fct: must be None or a function named ``cos_sim``.
            gather_across_devices: compare the rows of all ranks.
            directions: the similarities in the denominator, "query_to_doc" among them.
            partition_mode: "joint" for one softmax over all directions, "per_direction" for the mean of one each.
            hardness_mode, hardness_strength: must be None and 0.

        Raises:
            ValueError: an argument asks for another loss.
        """
        super().__init__()
        if similarity_fct is not None and getattr(similarity_fct, "__name__", "") != "cos_sim":
            raise ValueError(f"similarity_fct must be cos_sim, got {similarity_fct!r}")
        if not set(directions) <= set(DIRECTIONS) or "query_to_doc" not in directions:
            raise ValueError(f"directions must be of {DIRECTIONS}, 'query_to_doc' among them, got {directions}")
        if partition_mode not in ("joint", "per_direction"):
            raise ValueError(f"partition_mode must be 'joint' or 'per_direction', got {partition_mode!r}")
        if hardness_mode is not None and hardness_strength:
            raise ValueError(f"hardness penalties are not supported, got hardness_mode={hardness_mode!r}")
        self.model = model
        self.scale = scale
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.loss = RowLoss(1.0 / scale, gather_across_devices)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Embed every column with the model, and return the loss.

        Raises:
            ValueError: there is no model; as :meth:`compute_loss_from_embeddings`.
        """
        if self.model is None:
            raise ValueError("this loss was made without a model: call compute_loss_from_embeddings")
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """Loss of a batch.

        Args:
            embeddings: anchors, positives and any number of hard negatives, each ``[N, D]``, any strides.
            labels: not used.

        Returns:
            0-dim tensor.

        Raises:
            TypeError, ValueError: fewer than two, or not all of one shape, dtype and device.
        """
        if len(embeddings) < 2:
            raise ValueError(f"expected at least 2 embeddings, got {len(embeddings)}")
        names = ["anchors", "positives", *(f"negatives {i}" for i in range(1, len(embeddings) - 1))]
        inputs = dict(zip(names, embeddings, strict=True))
        check_same_rows(inputs)
        comparison = self.loss.compare(inputs)
        with torch.autocast(embeddings[0].device.type, enabled=False):
            if self.directions == ("query_to_doc",):
                ranked = comparison.ranking(*embeddings)
                if ranked is not None:
                    return ranked
            query, positive, *hard = (comparison.rows(column) for column in embeddings)
            similarity = comparison.similarity(query, positive)
            parts = self._parts(comparison, query, positive, hard)
            if self.partition_mode == "joint":
                return comparison.reduce(softplus(log_add(*(x for part in parts.values() for x in part)) - similarity))
            first = softplus(log_add(*parts.pop("query_to_doc")) - similarity)
            rest = (log_add(*part) - similarity for part in parts.values())
            return comparison.reduce((first + sum(rest)) / len(self.directions))

    def _parts(self, comparison: Comparison, q: Tensor, p: Tensor, hard: list[Tensor]) -> dict[str, list[Tensor]]:
        """Log-sum-exps of every direction, without the pair itself in the first."""
        parts = {"query_to_doc": [comparison.lse(q, p, "self"), *(comparison.lse(q, h) for h in hard)]}
        if "query_to_query" in self.directions:
            parts["query_to_query"] = [comparison.lse(q, None, "self")]
        if "doc_to_query" in self.directions:
            parts["doc_to_query"] = [comparison.lse(p, q)]
        if "doc_to_doc" in self.directions:
            # no document of the same query
            parts["doc_to_doc"] = [comparison.lse(p, None, "self"), *(comparison.lse(p, h, "self") for h in hard)]
        return parts

    @property
    def temperature(self) -> float:
        """1 / scale."""
        return 1.0 / self.scale

    def get_config_dict(self) -> dict[str, Any]:
        """What the library writes into a model card."""
        return {
            "scale": self.scale,
            "similarity_fct": "cos_sim",
            "gather_across_devices": self.gather_across_devices,
            "directions": self.directions,
            "partition_mode": self.partition_mode,
        }

    @property
    def citation(self) -> str:
        """The paper, for a model card."""
        return (
            "@misc{henderson2017efficient, title={Efficient Natural Language Response Suggestion for Smart Reply}, "
            "author={Matthew Henderson and others}, year={2017}, eprint={1705.00652}, archivePrefix={arXiv}}"
        )
