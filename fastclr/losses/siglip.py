"""SigLIP's loss: every pair of an image and a text is a yes-or-no question of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastclr.losses.pair_loss import PairLoss
from fastclr.losses.row_dots import row_dots
from fastclr.losses.row_inputs import softplus
from fastclr.losses.scalars import checked_factor, factor_tensor, number_of
from fastclr.losses.softplus_op import softplus_pairs
from fastclr.losses.tiles import vector_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastclr.losses.options import PairOptions


class SigLIPLoss(PairLoss):
    """``loss_i = softplus(-s_ii) + sum_{j != i} softplus(s_ij)`` with ``s_ij = scale <x_i, y_j> + bias``.

    The mean over N rows of sums over N columns: it grows with the batch. O(N D) memory. open_clip's ``SigLipLoss`` has
    the same value on rows of unit length. A bias of ``-log(N - 1)`` starts a small batch at the optimum of untrained
    features.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.
    """

    log_scale: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        logit_scale: float | Tensor = 10.0,
        logit_bias: float | Tensor = -10.0,
        *,
        learnable: bool = False,
        **options: Unpack[PairOptions],
    ) -> None:
        """Check and store the options.

        Args:
            logit_scale: factor of the similarities, a finite number but 0 or a tensor of one element, with or without
                gradient; positive if learnable.
            logit_bias: what is added to them, a finite number or a tensor likewise.
            learnable: make parameters of them: ``log_scale``, with ``scale = exp(log_scale)``, and ``bias``.
            **options: those of :class:`fastclr.losses.pair_loss.PairLoss`.

        Raises:
            TypeError: scale or bias is not a number.
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__(**options)
        self.logit_scale = checked_factor("logit_scale", logit_scale)
        self.logit_bias = checked_factor("logit_bias", logit_bias, zero=True)
        if learnable and not number_of(self.logit_scale) > 0:
            raise ValueError(f"a learnable logit_scale must be positive, got {number_of(self.logit_scale)}")
        self.log_scale = nn.Parameter(torch.zeros(())) if learnable else None
        self.bias = nn.Parameter(torch.zeros(())) if learnable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give learnable parameters the values that the loss was made with."""
        with torch.no_grad():
            if self.log_scale is not None:
                self.log_scale.fill_(math.log(number_of(self.logit_scale)))
            if self.bias is not None:
                self.bias.fill_(number_of(self.logit_bias))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | None = None,
        logit_bias: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of N pairs.

        Args:
            image_features: ``[N, D]``: float32, float64, float16 or bfloat16, any strides, any device.
            text_features: ``[N, D]``, same dtype and device; row i belongs to image i.
            logit_scale: in place of the module's: the factor itself, not its logarithm; a number or a tensor of one
                element, with or without gradient.
            logit_bias: in place of the module's, likewise.

        Returns:
            0-dim, or ``[N]`` (one value per image) for reduction "none"; float64 for float64 inputs, else float32.

        Raises:
            TypeError, ValueError: as :meth:`PairLoss.prepare`, or scale or bias are not usable numbers.
        """
        own_scale = self.logit_scale if self.log_scale is None else self.log_scale.exp()
        own_bias = self.logit_bias if self.bias is None else self.bias
        with torch.autocast(image_features.device.type, enabled=False):
            x, y, options = self.prepare(image_features, text_features)
            wide = vector_dtype(x.device)
            scale = factor_tensor("logit_scale", own_scale if logit_scale is None else logit_scale, x, wide)
            bias = factor_tensor("logit_bias", own_bias if logit_bias is None else logit_bias, x, wide, zero=True)
            attraction = softplus(-(row_dots(x, y, options.impl) * scale + bias))
            repulsion = softplus_pairs(x, y, scale, bias, options._replace(include="others"))
            total = repulsion + (attraction.sum() if options.reduce else attraction)
            return self.reduce(total, len(x), options, image_features.dtype)
