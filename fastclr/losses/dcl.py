"""Decoupled contrastive learning: NT-Xent without the positive in the denominator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fastclr.losses.inputs import check_option, check_views
from fastclr.losses.options import RowOptions
from fastclr.losses.row_loss import RowLoss
from fastclr.losses.scalars import as_number, check_number

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DCLLoss(RowLoss):
    """``loss_i = log sum_{j not self, positive} exp(s_ij) - w_i s_ip``, the mean over both views.

    ``s_ij = <z_i, z_j> / tau``; w_i is 1, or with ``weighting="mises_fisher"`` (DCLW) the constant
    ``2 - N softmax_i(<a_i, b_i> / sigma)`` over the N pairs. Unlike NT-Xent it has no lower bound. Same value as
    ``lightly.loss.DCLLoss`` and ``DCLWLoss``. O(N D) memory.

    Source: Yeh et al., Decoupled Contrastive Learning, 2022, equations 5 and 6.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        *,
        weighting: Literal["none", "mises_fisher"] = "none",
        sigma: float = 0.5,
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            weighting: "none" for DCL, "mises_fisher" for DCLW.
            sigma: of the weights, finite and not 0.
            temperature, gather_distributed: as in :class:`fastclr.losses.row_loss.RowLoss`.
            **options: its other options.

        Raises:
            TypeError, ValueError: as there, or the weighting is unknown, or sigma is 0 or not finite.
        """
        super().__init__(temperature, gather_distributed, **options)
        check_option("weighting", weighting, ("none", "mises_fisher"))
        check_number("sigma", as_number("sigma", sigma))
        self.weighting = weighting
        self.sigma = float(sigma)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views.

        Args:
            out0: ``[N, D]`` embeddings of the first view: float32, float64, float16 or bfloat16, any device.
            out1: ``[N, D]`` embeddings of the second view, same dtype and device.

        Returns:
            0-dim, or ``[2N]`` (view 0, then view 1) for reduction "none".

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`, or there is a single pair, which
                has no negatives.
        """
        check_views(out0, out1, self.group())
        comparison = self.compare({"out0": out0, "out1": out1})
        if comparison.options.group is None and out0.shape[0] == 1:
            raise ValueError("DCL needs negatives: got a batch of one pair")
        with torch.autocast(out0.device.type, enabled=False):
            first, second = comparison.rows(out0), comparison.rows(out1)
            negatives = comparison.lse(torch.cat([first, second]), exclude="pair")
            own = comparison.dots(first, second)
            positive = own * comparison.scale
            if self.weighting == "mises_fisher":
                every = comparison.every(own.detach() / self.sigma)
                weight = 2.0 - every.shape[0] * every.softmax(0)
                positive = comparison.own(weight, own.shape[0]) * positive
            # the rows of a rank are those of its first view and then those of its second
            return comparison.reduce(negatives - comparison.every(torch.cat([positive, positive])))
