"""What SimCLR compares NT-Xent with (its Tables 2 and 4): NT-Logistic and the margin triplet, with semi-hard mining."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, distributed

from fastclr.losses.inputs import check_option
from fastclr.losses.mining import hardest
from fastclr.losses.pair_loss import PairLoss
from fastclr.losses.row_dots import every, row_dots, share_gradient
from fastclr.losses.row_inputs import softplus
from fastclr.losses.scalars import as_number, check_number, factor_tensor
from fastclr.losses.softplus_op import SoftplusOptions, softplus_pairs
from fastclr.losses.temperature import WithTemperature
from fastclr.losses.tiles import vector_dtype
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastclr.losses.options import PairOptions

Negatives = Literal["one_view", "both_views"]
Mining = Literal["none", "semi_hard"]
NEGATIVES, MININGS = get_args(Negatives), get_args(Mining)


def _mined(x: Tensor, y: Tensor, width: float, options: SoftplusOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of all ranks' anchors x to their positives y and to their semi-hard negatives, and which have one.

    Semi-hard: of the other view, less similar than the positive by less than `width`; the most similar one counts.
    """
    group = options.group
    positive = row_dots(x, y, options.impl)
    columns = y if group is None else gather_rows(y, group)
    offset = 0 if group is None else distributed.get_rank(group) * len(x)
    bound = positive.detach()
    index = hardest(x.detach(), columns.detach(), bound - width, bound, offset, options.precision)
    index = index if group is None else gather_rows(index, group)
    # every rank computes all anchors' losses, so that its rows get their gradient as negatives of other ranks' anchors
    all_x, all_y = every(x, group), every(y, group)
    negative = row_dots(all_x, all_y[index.clamp_min(0)], options.impl)
    return row_dots(all_x, all_y, options.impl), negative, index >= 0


class _Rival(PairLoss):
    def __init__(self, mining: Mining, **options: Unpack[PairOptions]) -> None:
        super().__init__(**options)
        check_option("mining", mining, MININGS)
        self.mining: Mining = mining

    def _reduce_all(self, loss: Tensor, options: SoftplusOptions, dtype: torch.dtype) -> Tensor:
        """Reduce ``[2, W N]``, the losses of all ranks' anchors by view: value of the local ones, gradient of all."""
        group = options.group
        if not options.reduce:
            return self.reduce(loss.flatten(), 1, options, dtype)
        if group is None:
            return self.reduce(loss.sum(), loss.numel(), options, dtype)
        size = distributed.get_world_size(group)
        count = loss.shape[1] // size
        start = distributed.get_rank(group) * count
        local, total = loss[:, start : start + count].detach().sum(), loss.sum()
        return self.reduce(local + (total - total.detach()), 2 * count, options, dtype)


class NTLogisticLoss(_Rival, WithTemperature):
    """``loss_i = softplus(-s_ip) + sum_negatives softplus(s_ij)`` with ``s = cos / tau``, over all 2N rows.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, Table 2 and
    appendix B.10, which takes the negatives from one view and tunes tau over 0.1, 0.2, 0.5 and 1.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        *,
        negatives: Negatives = "one_view",
        mining: Mining = "none",
        learnable_temperature: bool = False,
        **options: Unpack[PairOptions],
    ) -> None:
        """Check and store the options.

        Args:
            temperature: tau, a finite number but 0, or a 0-dim tensor with or without gradient.
            learnable_temperature: make ``log_temperature`` a parameter, ``tau = exp(log_temperature)``, of a positive
                number.
            negatives: "one_view", all rows of the other view but the positive, or "both_views", those of NT-Xent.
            mining: "none", or "semi_hard": of the other view's rows less similar than the positive only the most
                similar one counts; rows without one are only attracted.
            **options: those of :class:`fastclr.losses.pair_loss.PairLoss`.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__(mining, **options)
        check_option("negatives", negatives, NEGATIVES)
        if negatives == "both_views" and mining != "none":
            raise ValueError("semi-hard negatives come from one view: pass negatives='one_view' or mining='none'")
        self.negatives: Negatives = negatives
        self.own_temperature(temperature, learnable_temperature)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``: 0-dim, or ``[2N]`` (view 0, then view 1) for reduction "none".

        Raises:
            TypeError, ValueError: as :meth:`PairLoss.prepare`, or the temperature is not a usable number.
        """
        with torch.autocast(out0.device.type, enabled=False):
            x, y, options = self.prepare(out0, out1)
            scale = factor_tensor("temperature", self.temperature, x, vector_dtype(x.device)).reciprocal()
            if self.mining == "semi_hard":
                return self._reduce_all(self._mined(x, y, scale, options), options, out0.dtype)
            attraction = softplus(-row_dots(x, y, options.impl) * scale)
            bias = torch.zeros_like(scale)
            if self.negatives == "both_views":
                z = torch.cat([x, y])
                repulsion = softplus_pairs(z, z, scale, bias, options._replace(include="negatives"))
                total = repulsion + (2 * attraction.sum() if options.reduce else attraction.repeat(2))
            else:
                others = options._replace(include="others")
                repulsion = softplus_pairs(x, y, scale, bias, others)
                if options.reduce:
                    # the columns of the same matrix are the anchors of the other view
                    total = 2 * (repulsion + attraction.sum())
                else:
                    other = softplus_pairs(y, x, scale, bias, others)
                    total = torch.cat([repulsion + attraction, other + attraction])
            return self.reduce(total, 2 * len(x), options, out0.dtype)

    def _mined(self, x: Tensor, y: Tensor, scale: Tensor, options: SoftplusOptions) -> Tensor:
        if options.group is not None:
            # every rank computes the term of all anchors: 1/W of the gradient each
            scale = share_gradient(scale, 1 / distributed.get_world_size(options.group))
        losses = []
        for anchors, others in ((x, y), (y, x)):
            positive, negative, found = _mined(anchors, others, math.inf, options)
            repulsion = torch.where(found, softplus(negative * scale), 0.0)
            losses.append(softplus(-positive * scale) + repulsion)
        return torch.stack(losses)


class MarginTripletLoss(_Rival):
    """``loss_i = sum_negatives max(0, cos_ij - cos_ip + margin)`` over all 2N rows, with negatives of the other view.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, Table 2 and
    appendix B.10, which tunes the margin over 0, 0.4, 0.8 and 1.6.
    """

    def __init__(self, margin: float = 0.8, *, mining: Mining = "semi_hard", **options: Unpack[PairOptions]) -> None:
        """Check and store the options.

        Args:
            margin: m, a finite number, at least 0.
            mining: "semi_hard": of the negatives less similar than the positive by less than the margin only the most
                similar one counts, and a row without one has the loss 0; or "none", all negatives.
            **options: those of :class:`fastclr.losses.pair_loss.PairLoss`.

        Raises:
            TypeError: the margin is not a number.
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__(mining, **options)
        self.margin = as_number("margin", margin)
        check_number("margin", self.margin, zero=True)
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``: 0-dim, or ``[2N]`` (view 0, then view 1) for reduction "none".

        Raises:
            TypeError, ValueError: as :meth:`PairLoss.prepare`.
        """
        with torch.autocast(out0.device.type, enabled=False):
            x, y, options = self.prepare(out0, out1)
            if self.mining == "semi_hard":
                losses = []
                for anchors, others in ((x, y), (y, x)):
                    positive, negative, found = _mined(anchors, others, self.margin, options)
                    losses.append(torch.where(found, torch.relu(negative - positive + self.margin), 0.0))
                return self._reduce_all(torch.stack(losses), options, out0.dtype)
            hinge = options._replace(include="others", activation="hinge")
            bias = self.margin - row_dots(x, y, options.impl)
            one = torch.ones((), dtype=bias.dtype, device=bias.device)
            parts = [softplus_pairs(a, b, one, bias, hinge) for a, b in ((x, y), (y, x))]
            total = parts[0] + parts[1] if options.reduce else torch.cat(parts)
            return self.reduce(total, 2 * len(x), options, out0.dtype)
