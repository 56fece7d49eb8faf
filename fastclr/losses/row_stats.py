"""How well the rows of a contrastive loss find their positives: statistics without gradient and without a matrix."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastclr.losses.lse_blocks import Excluded, Products
from fastclr.losses.tiles import logit_operands, matrix_products, vector_dtype


class RowStats(NamedTuple):
    """Statistics of a loss's softmaxes, each over a positive and all that it is compared with, without gradient."""

    accuracy: Tensor
    """``[n]``: 1 where nothing is more similar than the positive, else 0."""
    entropy: Tensor
    """``[n]``: entropy of the softmax, in nats."""


class Part(NamedTuple):
    """What a part of the denominator contributes, ``[n]`` each: -inf, -inf and 0 for a row where nothing counts."""

    lse: Tensor
    top: Tensor
    """The largest similarity."""
    mean: Tensor
    """Of the similarities, under their softmax."""


class Watch:
    """Notes, while a loss is computed, what its statistics need: every positive, and the parts of its denominator."""

    def __init__(self) -> None:
        self.positive: Tensor | None = None
        self.softmaxes: list[list[Part]] = [[]]

    def note(self, part: Part, softmax: int = 0) -> None:
        """Add a part of a row's denominator; the second softmax of a pair is that of its column."""
        while len(self.softmaxes) <= softmax:
            self.softmaxes.append([])
        self.softmaxes[softmax].append(part)

    @torch.no_grad()
    def stats(self) -> RowStats:
        """The statistics of all rows; of two softmaxes those of the first, then those of the second.

        Raises:
            ValueError: the loss compares no row with a single positive.
        """
        if self.positive is None or not all(self.softmaxes):
            raise ValueError("this loss has no statistics: its rows have no single positive")
        found = [_stats(self.positive.detach(), parts) for parts in self.softmaxes]
        return RowStats(*(torch.cat(values) for values in zip(*found, strict=True)))


def _stats(positive: Tensor, parts: list[Part]) -> RowStats:
    logs = torch.stack([positive, *(part.lse for part in parts)])
    total = logs.logsumexp(0)
    means = torch.stack([positive, *(part.mean for part in parts)])
    top = torch.stack([part.top for part in parts]).amax(0)
    return RowStats((top <= positive).to(positive.dtype), total - ((logs - total).exp() * means).sum(0))


@torch.no_grad()
def dense_part(similarities: Tensor) -> Part:
    """The part that a row's own similarities ``[n, k]`` are."""
    if similarities.shape[1] == 0:
        nothing = similarities.new_full((len(similarities),), -math.inf)
        return Part(nothing, nothing, torch.zeros_like(nothing))
    return Part(similarities.logsumexp(1), similarities.amax(1), (similarities.softmax(1) * similarities).sum(1))


@torch.no_grad()
def tiled_part(q: Tensor, k: Tensor, scale: Tensor, excluded: Excluded, lse: Tensor, precision: str) -> Part:
    """A part whose log-sum-exp is known, from tiles of its similarities.

    Args:
        q: ``[n, D]``, float32 or float64.
        k: ``[m, D]``.
        scale: 0-dim.
        excluded: the pairs that do not count.
        lse: ``[n]``.
        precision: of float32 matrix products.
    """
    wide = vector_dtype(q.device)
    products = Products(*logit_operands(q, k, scale.to(wide).reciprocal()), excluded, symmetric=False)
    top, mean = q.new_full((len(q),), -math.inf), q.new_zeros(len(q), dtype=wide)
    own = lse.to(q.dtype).masked_fill(lse == -math.inf, 0.0)
    with matrix_products(precision, q.device):
        for tile, rows, _, _ in products:
            torch.maximum(top[rows], tile.amax(1), out=top[rows])
            weight = (tile - own[rows, None]).exp_()
            # what does not count is -inf, of weight 0
            mean[rows] += weight.mul_(tile.masked_fill_(tile == -math.inf, 0.0)).sum(1)
    return Part(lse.detach().to(wide), top.to(wide), mean)
