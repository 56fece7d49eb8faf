"""NT-Xent with debiased and hard negatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastclr.losses.inputs import check_views
from fastclr.losses.options import RowOptions
from fastclr.losses.row_inputs import softplus
from fastclr.losses.row_loss import RowLoss
from fastclr.losses.scalars import as_number

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DebiasedNTXentLoss(RowLoss):
    """``loss_i = log(e^(s_ip) + g_i) - s_ip``, where g_i estimates the sum over the negatives of another class.

    With n = 2N - 2 negatives j of i and ``s_ij = <z_i, z_j> / tau``:
    ``g_i = max((h_i - prior n e^(s_ip)) / (1 - prior), n e^(-1/tau))``, ``h_i = sum_j e^(s_ij)``, or with hardness beta
    ``h_i = n sum_j e^((1 + beta) s_ij) / sum_j e^(beta s_ij)``. A prior of 0 and a hardness of 0 give NT-Xent. A row at
    the floor of g gives its negatives no gradient. O(N D) memory.

    Source: Chuang et al., Debiased Contrastive Learning, 2020; Robinson et al., Contrastive Learning with Hard Negative
    Samples, 2021.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        gather_distributed: bool = False,
        *,
        prior: float = 0.1,
        hardness: float = 0.0,
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            prior: tau+, the share of negatives that are of the row's own class, in [0, 1).
            hardness: beta, at least 0; 0 weighs all negatives alike.
            temperature, gather_distributed: as in :class:`fastclr.losses.row_loss.RowLoss`.
            **options: its other options.

        Raises:
            TypeError, ValueError: as there, or prior or hardness is out of range.
        """
        super().__init__(temperature, gather_distributed, **options)
        self.prior = as_number("prior", prior)
        self.hardness = as_number("hardness", hardness)
        if not 0.0 <= self.prior < 1.0:
            raise ValueError(f"prior must be in [0, 1), got {prior}")
        if not 0.0 <= self.hardness < math.inf:
            raise ValueError(f"hardness must be finite and at least 0, got {hardness}")

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views.

        Args:
            out0: ``[N, D]`` embeddings of the first view: float32, float64, float16 or bfloat16, any device.
            out1: ``[N, D]`` embeddings of the second view, same dtype and device.

        Returns:
            0-dim, or ``[2N]`` (view 0, then view 1) for reduction "none".

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`.
        """
        check_views(out0, out1, self.group())
        comparison = self.compare({"out0": out0, "out1": out1})
        with torch.autocast(out0.device.type, enabled=False):
            first, second = comparison.rows(out0), comparison.rows(out1)
            z = torch.cat([first, second])
            positive = comparison.every((comparison.dots(first, second) * comparison.scale).repeat(2))
            if self.hardness == 0.0:
                negatives = comparison.lse(z, exclude="pair")
            else:
                beta = self.hardness
                negatives = comparison.lse(z, exclude="pair", factor=1.0 + beta)
                if positive.shape[0] > 2:
                    even = comparison.lse(z, exclude="pair", factor=beta)
                    negatives = negatives - even + math.log(positive.shape[0] - 2)
            floor = -comparison.replicated_scale().abs()
            return comparison.reduce(softplus(self._debiased(negatives, positive, floor) - positive))

    def _debiased(self, negatives: Tensor, positive: Tensor, floor: Tensor) -> Tensor:
        """``log g`` from ``log h``, the positives' similarities and the floor of a single one."""
        count = positive.shape[0] - 2
        if self.prior == 0.0 or count == 0:
            return negatives
        floor = floor + math.log(count)
        share = positive + math.log(self.prior * count) - negatives
        # masked twice: a gradient through the logarithm of a negative number would be NaN
        left = torch.where(share < 0, share, -1.0)
        estimate = negatives + torch.log(-torch.expm1(left)) - math.log1p(-self.prior)
        return torch.where((share < 0) & (estimate > floor), estimate, floor)
