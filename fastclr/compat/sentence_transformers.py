"""Losses with the call conventions of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastclr.losses.row_dots import share_gradient
from fastclr.losses.row_inputs import check_same_rows, log_add, softplus
from fastclr.losses.row_loss import Comparison, RowLoss

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
HARDNESS = ("in_batch_negatives", "hard_negatives", "all_negatives")


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
        hardness_mode: str | None = None,
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
            partition_mode: "joint" for one softmax over all directions, "per_direction" for the mean of one each, of
                directions that compare queries with documents.
            hardness_mode: which negatives of a query count more: "in_batch_negatives", those of other samples,
                "hard_negatives", its own, or "all_negatives".
            hardness_strength: their logits become ``(scale + strength) cos``, with the gradient of ``scale cos``.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__()
        if similarity_fct is not None and getattr(similarity_fct, "__name__", "") != "cos_sim":
            raise ValueError(f"similarity_fct must be cos_sim, got {similarity_fct!r}")
        if not set(directions) <= set(DIRECTIONS) or "query_to_doc" not in directions:
            raise ValueError(f"directions must be of {DIRECTIONS}, 'query_to_doc' among them, got {directions}")
        if partition_mode not in ("joint", "per_direction"):
            raise ValueError(f"partition_mode must be 'joint' or 'per_direction', got {partition_mode!r}")
        if partition_mode == "per_direction" and set(directions) & {"query_to_query", "doc_to_doc"}:
            raise ValueError(
                f"partition_mode='per_direction' needs directions with the positive pair, got {directions}"
            )
        if hardness_mode is not None and hardness_mode not in HARDNESS:
            raise ValueError(f"hardness_mode must be None or of {HARDNESS}, got {hardness_mode!r}")
        if not scale > 0 or hardness_strength < 0:
            raise ValueError(f"expected scale > 0 and hardness_strength >= 0, got {scale} and {hardness_strength}")
        self.model = model
        self.scale = scale
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength
        self.loss = RowLoss(1.0 / scale, gather_across_devices)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Embed every column with the model, and return the loss.

        Raises:
            ValueError: there is no model; as :meth:`compute_loss_from_embeddings`.
        """
        if self.model is None:
            raise ValueError("this loss was made without a model: call compute_loss_from_embeddings")
        embeddings = [self.embed(self.model, features) for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def embed(self, model: nn.Module, features: dict[str, Any]) -> Tensor:
        """``[N, D]`` of one column."""
        rows: Tensor = model(features)["sentence_embedding"]
        return rows

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
            if self.directions == ("query_to_doc",) and not self._extra():
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
        parts = {"query_to_doc": self._documents(comparison, q, p, hard)}
        if "query_to_query" in self.directions:
            parts["query_to_query"] = [comparison.lse(q, None, "self")]
        if "doc_to_query" in self.directions:
            parts["doc_to_query"] = [comparison.lse(p, q)]
        if "doc_to_doc" in self.directions:
            # no document of the same query
            parts["doc_to_doc"] = [comparison.lse(p, None, "self"), *(comparison.lse(p, h, "self") for h in hard)]
        return parts

    def _extra(self) -> float:
        """Strength over scale, 0 without hardness."""
        return 0.0 if self.hardness_mode is None else self.hardness_strength / self.scale

    def _documents(self, comparison: Comparison, q: Tensor, p: Tensor, hard: list[Tensor]) -> list[Tensor]:
        """Log-sum-exps of a query's documents but its positive, harder ones with more weight and the same gradient."""
        factor = 1.0 + self._extra()
        if factor == 1.0:
            return [comparison.lse(q, p, "self"), *(comparison.lse(q, h) for h in hard)]
        others = 1.0 if self.hardness_mode == "hard_negatives" else factor
        own = 1.0 if self.hardness_mode == "in_batch_negatives" else factor
        parts = [share_gradient(comparison.lse(q, k, "self", factor=others), 1 / others) for k in (p, *hard)]
        return parts + [share_gradient(comparison.similarity(q, h) * own, 1 / own) for h in hard]

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
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }

    @property
    def citation(self) -> str:
        """The paper, for a model card."""
        return (
            "@misc{henderson2017efficient, title={Efficient Natural Language Response Suggestion for Smart Reply}, "
            "author={Matthew Henderson and others}, year={2017}, eprint={1705.00652}, archivePrefix={arXiv}}"
        )


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """The library's cached loss: the same value and gradients, with the activations of one mini-batch at a time.

    Every mini-batch is embedded without its activations, and again in the backward, with the same random numbers. The
    original does so in a hook of its own; here the checkpoints of torch do.
    """

    def __init__(
        self,
        model: nn.Module | None,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: None = None,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        show_progress_bar: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        """Take the original's arguments.

        Args:
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
                hardness_strength: as in :class:`MultipleNegativesRankingLoss`.
            mini_batch_size: rows embedded at once, at least 1.
            mini_batch_num_tokens: must be None.
            show_progress_bar: without effect.

        Raises:
            ValueError: as there, or an argument is out of range.
        """
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
        )
        if mini_batch_num_tokens is not None or mini_batch_size < 1:
            raise ValueError(
                f"expected mini_batch_num_tokens None and mini_batch_size >= 1, got {mini_batch_num_tokens} and "
                f"{mini_batch_size}"
            )
        self.mini_batch_size = mini_batch_size

    def embed(self, model: nn.Module, features: dict[str, Any]) -> Tensor:
        """``[N, D]`` of one column: tensors of N rows are cut, everything else goes to every mini-batch.

        Raises:
            ValueError: the features hold no tensor, or are not one row a text (flattened, or patches of images).
        """
        if "cu_seq_lens_q" in features or "pixel_values" in features:
            raise ValueError("features must have one row a text: flattened ones and images cannot be cut")
        count = next((len(x) for x in features.values() if isinstance(x, Tensor) and x.dim()), 0)
        if count == 0:
            raise ValueError("features must hold a tensor with a row a text")
        parts = []
        for start in range(0, count, self.mini_batch_size):
            part = {
                name: x[start : start + self.mini_batch_size] if _has_rows(x, count) else x
                for name, x in features.items()
            }
            parts.append(checkpoint(super().embed, model, part, use_reentrant=False))
        return torch.cat(parts)

    def get_config_dict(self) -> dict[str, Any]:
        """What the library writes into a model card."""
        return super().get_config_dict() | {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": None}


def _has_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
