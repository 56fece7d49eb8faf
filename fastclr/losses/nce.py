"""Noise-contrastive estimation: tell a row's positive from noise that is drawn from a bank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastclr.losses.pair_loss import PairLoss
from fastclr.losses.row_dots import row_dots
from fastclr.losses.row_inputs import softplus
from fastclr.losses.softplus_op import softplus_pairs
from fastclr.losses.tiles import vector_dtype
from fastclr.losses.unit_rows import comparable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastclr.losses.options import LossOptions

SMALLEST_TEMPERATURE = 1e-3  # of the series below, which has some 1/tau terms


class NCELoss(PairLoss):
    """``loss_i = -log sigmoid(s_ip - c) - sum_k log sigmoid(c - s_ik)``, ``c = log(K E)`` with K negatives.

    s is the cosine over tau, and E the mean of ``e^s`` over pairs of random unit vectors: a positive counts as found if
    it is more probable than K times the noise under the model ``e^s / (n E)`` of n images.

    Source: Gutmann and Hyvarinen, Noise-contrastive estimation, 2010; for banks of embeddings Wu et al., Unsupervised
    Feature Learning via Non-Parametric Instance Discrimination, 2018, which estimates E from the first batch.
    """

    def __init__(self, temperature: float, dim: int, **options: Unpack[LossOptions]) -> None:
        """Check and store the options.

        Args:
            temperature: tau, at least 1e-3.
            dim: of the rows.
            **options: those of :class:`fastclr.losses.pair_loss.PairLoss`.

        Raises:
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__(**options)
        self.temperature, self.log_mean = temperature, log_mean_exp(temperature, dim)

    def forward(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Loss of the rows.

        Args:
            query: ``[N, D]``: float32, float64, float16 or bfloat16, any device.
            positive: ``[N, D]``, same dtype and device.
            negatives: ``[K, D]`` for all queries; they get no gradient if they need none.

        Returns:
            0-dim, or ``[N]`` for reduction "none".

        Raises:
            TypeError, ValueError: as :meth:`PairLoss.prepare`.
        """
        with torch.autocast(query.device.type, enabled=False):
            q, p, options = self.prepare(query, positive)
            k = comparable(negatives, self.normalize, options.impl)
            wide = vector_dtype(q.device)
            scale = torch.tensor(1.0 / self.temperature, dtype=wide, device=q.device)
            bias = torch.tensor(-math.log(len(k)) - self.log_mean, dtype=wide, device=q.device)
            found = softplus(-(row_dots(q, p, options.impl) * scale + bias))
            rejected = softplus_pairs(q, k, scale, bias, options)
            loss = (found.sum() if options.reduce else found) + rejected
            return self.reduce(loss, len(q), options, query.dtype)


def log_mean_exp(temperature: float, dim: int) -> float:
    """Return ``log E exp(<u, v> / tau)`` of independent uniform unit vectors of `dim` dimensions.

    By its series ``sum_m (1 / (4 tau^2))^m / (m! (dim/2) (dim/2 + 1) ... (dim/2 + m - 1))``.

    Raises:
        ValueError: the temperature is below 1e-3, or there is no dimension.
    """
    if temperature < SMALLEST_TEMPERATURE or dim < 1:
        raise ValueError(
            f"temperature must be at least {SMALLEST_TEMPERATURE:g} and dim at least 1, got {temperature} and {dim}"
        )
    x, half = -2.0 * math.log(2.0 * temperature), dim / 2
    terms = [
        m * x - math.lgamma(m + 1) - math.lgamma(half + m) + math.lgamma(half)
        for m in range(int(1.0 / temperature) + 200)
    ]
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))
