"""What the row-softmax losses share: their options as a module, and the comparison of the rows of one call.

A loss checks its inputs, asks :meth:`RowLoss.compare` for a :class:`Comparison`, and is then a few lines of autograd on
the vectors that :meth:`Comparison.lse` and :meth:`Comparison.similarity` return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from fastclr.losses.inputs import exponent_shift, select_impl, tile_precision
from fastclr.losses.lse_blocks import Excluded
from fastclr.losses.lse_op import LSEOptions, lse
from fastclr.losses.options import ComparingLoss, LossOptions, is_deterministic
from fastclr.losses.paired_blocks import stripe_rows
from fastclr.losses.paired_op import ClipFunction, PairedOptions, RankingFunction
from fastclr.losses.row_dots import every, row_dots, share_gradient
from fastclr.losses.row_inputs import check_rows
from fastclr.losses.row_stats import RowStats, Watch, tiled_part
from fastclr.losses.scalars import factor_tensor
from fastclr.losses.temperature import WithTemperature
from fastclr.losses.tiles import compute_dtype, vector_dtype
from fastclr.losses.transforms import check_transforms
from fastclr.losses.unit_rows import comparable
from fastclr.parallel import check_same_shape, gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

FEWEST_STRIPE_ROWS = 64  # below this a product of a stripe of rows with all columns is slow


@dataclass(frozen=True)
class Comparison:
    """The rows of one call are compared with one scale, on one process or over a group."""

    scale: Tensor
    """0-dim, 1/tau, with its gradient if it has one."""
    normalize: bool
    reduction: str
    dtype: torch.dtype
    """Of the loss: float64 for float64 inputs, else float32."""
    options: LSEOptions
    watch: Watch | None = None
    """Takes notes for statistics; None if nobody asks for them."""

    def rows(self, inputs: Tensor) -> Tensor:
        """The rows to compare: of unit length if normalised; float64 stays float64, everything else is float32."""
        return comparable(inputs, self.normalize, self.options.impl)

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """``s_i = scale <a_i, b_i>`` of the rows of all ranks, in the dtype of per-row values."""
        own = self.dots(first, second) * self.scale
        if self.watch is not None:
            self.watch.positive = own
        return self.every(own)

    def dots(self, first: Tensor, second: Tensor) -> Tensor:
        """``<a_i, b_i>`` of this rank's rows, in the dtype of per-row values."""
        return row_dots(first, second, self.options.impl)

    def lse(
        self,
        q: Tensor,
        k: Tensor | None = None,
        exclude: str = "nothing",
        *,
        ids: tuple[Tensor, Tensor | None] | None = None,
        limit: Tensor | None = None,
        factor: float = 1.0,
        local: bool = False,
        softmax: int = 0,
    ) -> Tensor:
        """Log-sum-exp of every row of all ranks, see :func:`fastclr.losses.lse_op.lse`.

        Args:
            q, k, exclude, ids, limit: as there.
            factor: multiplies the scale.
            local: the columns are this rank's own affair (a queue): they are not gathered.
            softmax: 1 if the rows are the second side of pairs, for the statistics.

        Returns:
            ``[W n]`` in the dtype of per-row values.
        """
        options = self.options._replace(group=None) if local else self.options
        scale = self.scale if factor == 1.0 else self.scale * factor
        if factor > 1.0 and options.shift == "fixed":  # the temperature allowed it, times the factor it need not
            options = options._replace(shift="online")
        if limit is not None:
            limit = limit.to(vector_dtype(q.device))
        rows, _ = lse(q, k, scale, options, exclude=exclude, ids=ids, limit=limit)
        rows = rows.to(vector_dtype(q.device))
        if self.watch is not None:
            own = rows if local else self.own(rows, q.shape[0])
            self._note(q, q if k is None else k, scale, exclude, ids, limit, own, options.group, softmax)
        return self.every(rows) if local else rows

    def limit(self, positive: Tensor, count: int, margin: float | None) -> Tensor | None:
        """``[count]``: similarities of this rank's rows above these are left out as likely positives; None for none.

        Args:
            positive: ``s_ii`` of the rows of all ranks, see :meth:`similarity`.
            count: rows of this rank.
            margin: how much more similar than its positive another may be to count as a negative, as a cosine.
        """
        if margin is None:
            return None
        return self.own(positive.detach(), count) + margin * self.scale.detach()

    def _note(
        self,
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        exclude: str,
        ids: tuple[Tensor, Tensor | None] | None,
        limit: Tensor | None,
        own: Tensor,
        group: ProcessGroup | None,
        softmax: int = 0,
    ) -> None:
        """Note a part of the denominator of this rank's rows for the statistics."""
        if self.watch is None:
            return
        offset = 0 if group is None else distributed.get_rank(group) * q.shape[0]
        row_ids, column_ids = (None, None) if ids is None else (ids[0], ids[0] if ids[1] is None else ids[1])
        columns = k if group is None else gather_rows(k, group)
        if column_ids is not None and group is not None:
            column_ids = gather_rows(column_ids, group)
        excluded = Excluded(exclude, offset, columns.shape[0] // 2, row_ids, column_ids, limit)
        precision = self.options.precision if self.options.impl == "blockwise" else "ieee"
        self.watch.note(tiled_part(q.detach(), columns.detach(), scale.detach(), excluded, own, precision), softmax)

    def pairs(
        self, first: Tensor, second: Tensor, ids: Tensor | None, margin: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities ``s_ii`` of all ranks' pairs, and log-sum-exps over all others of their rows and columns.

        Args:
            first, second: ``[n, D]`` of this rank, not yet normalised.
            ids: ``[n]`` int64: pairs of equal ids do not count; None for all different.
            margin: see :meth:`limit`. With it each side has its own pairs, and the tiles are computed for either.
        """
        if ids is None and margin is None and self._at_once(first):
            at_once: tuple[Tensor, Tensor, Tensor] = ClipFunction.apply(first, second, self.scale, self._paired())
            return at_once
        x, y = self.rows(first), self.rows(second)
        exclude, twice = ("self", None) if ids is None else ("equal", (ids, None))
        if margin is not None:
            positive = self.similarity(x, y)
            limit = self.limit(positive, x.shape[0], margin)
            rows = self.lse(x, y, exclude, ids=twice, limit=limit)
            return positive, rows, self.lse(y, x, exclude, ids=twice, limit=limit, softmax=1)
        found = lse(x, y, self.scale, self.options, exclude=exclude, ids=twice, both=True)
        rows, columns = (values.to(vector_dtype(x.device)) for values in found)
        if self.watch is not None:
            for side, (left, right, values) in enumerate(((x, y, rows), (y, x, columns))):
                own = self.own(values, x.shape[0])
                self._note(left, right, self.scale, exclude, twice, None, own, self.options.group, side)
        return self.similarity(x, y), rows, columns

    def ranking(self, first: Tensor, *columns: Tensor) -> Tensor | None:
        """The reduced ``log(1 + sum_{j != i} exp(s_ij - s_ii))``, or None where :meth:`lse` has to give its parts.

        Args:
            first: ``[n, D]``, not yet normalised.
            columns: ``[n, D]``, the positives, and any ``[h, D]`` after them.
        """
        count = sum(each.shape[0] for each in columns)
        narrow = stripe_rows(count, self.dtype) < FEWEST_STRIPE_ROWS
        if self.reduction == "none" or narrow or not self._at_once(first):
            return None
        total: Tensor = RankingFunction.apply(self.scale, self._paired(), first, *columns)
        return (total / first.shape[0] if self.reduction == "mean" else total).to(self.dtype)

    def _at_once(self, rows: Tensor) -> bool:
        """Whether the operators of paired_blocks.py apply: one process, blocks, a CPU."""
        alone = self.options.group is None and self.watch is None
        return self.options.impl == "blockwise" and alone and rows.device.type == "cpu"

    def _paired(self) -> PairedOptions:
        return PairedOptions(self.normalize, self.options.shift, self.options.precision)

    def every(self, values: Tensor) -> Tensor:
        """``[W n, ...]``: the values of all ranks, of which those of this rank keep their gradient."""
        return every(values, self.options.group)

    def own(self, values: Tensor, count: int) -> Tensor:
        """This rank's `count` of the values of all ranks."""
        group = self.options.group
        start = 0 if group is None else distributed.get_rank(group) * count
        return values[start : start + count]

    def replicated_scale(self) -> Tensor:
        """The scale for a term that every rank computes from the rows of all of them: 1/W of its gradient each."""
        group = self.options.group
        if group is None:
            return self.scale
        return share_gradient(self.scale, 1 / distributed.get_world_size(group))

    def reduce(self, loss: Tensor, counts: Tensor | None = None) -> Tensor:
        """The reduced loss, in the compute dtype.

        Args:
            loss: of the rows of all ranks, 0 where a row does not count.
            counts: 1 for the rows that the mean is over and 0 for the others; all of them without it.

        Returns:
            The mean (over the ranks, means of this value are the mean of all rows) or the sum of the local rows, with
            the gradient of all rows times the world size, which DistributedDataParallel divides by.
        """
        if self.reduction == "none":
            return loss.to(self.dtype)
        number = loss.shape[0] if counts is None else counts.sum().clamp_min(1)
        weighted = loss / number if self.reduction == "mean" else loss
        total = weighted.sum()
        if self.options.group is None:
            return total.to(self.dtype)
        group = self.options.group
        size = distributed.get_world_size(group)
        local = self.own(weighted.detach(), loss.shape[0] // size).sum()
        if self.reduction == "mean":
            local = local * size
        spread = total * size
        return (local + (spread - spread.detach())).to(self.dtype)


class RowLoss(ComparingLoss, WithTemperature):
    """Base of the row-softmax losses: their options, checked and stored."""

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        *,
        learnable_temperature: bool = False,
        **options: Unpack[LossOptions],
    ) -> None:
        """Check and store the options.

        Args:
            temperature: tau, a finite number with ``|tau| >= 1e-8``, or a 0-dim tensor, with or without gradient.
            gather_distributed: compare the rows of all ranks.
            learnable_temperature: make ``log_temperature`` a parameter, ``tau = exp(log_temperature)``. Exempt it from
                weight decay, which would pull tau to 1.
            **options: normalize, reduction, precision, impl, deterministic and process_group of
                :class:`fastclr.losses.options.ComparingLoss`.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: another argument is out of range; the message says what was expected.
        """
        super().__init__(gather_distributed, **options)
        self.own_temperature(temperature, learnable_temperature)

    def stats(self, *inputs: Any, **named: Any) -> tuple[Tensor, RowStats]:
        """The loss of a call, and the statistics of its softmaxes: :class:`fastclr.losses.row_stats.RowStats`.

        They cost another pass over the similarities, and cover the rows of this rank against the columns of all.

        Args:
            *inputs, **named: what the loss itself takes.

        Raises:
            ValueError: the rows of this loss have no single positive (SupCon, or DCL and debiased NT-Xent, for which
                ``nt_xent(..., return_stats=True)`` has them); and as the loss itself.
        """
        self.__dict__["watch"] = watch = Watch()
        try:
            loss: Tensor = self(*inputs, **named)
        finally:
            del self.__dict__["watch"]
        return loss, watch.stats()

    def compare(self, inputs: dict[str, Tensor], scale: float | Tensor | None = None) -> Comparison:
        """Check the rows of a call, and return what compares them.

        Args:
            inputs: rows ``[., D]`` by the name of their argument; with a group, the first decide the batch's size.
            scale: in place of 1/tau: a finite number but 0, or a floating tensor of one element.

        Raises:
            TypeError: rows are not dense floating-point tensors of one dtype, or the scale is not a number.
            ValueError: shapes, devices or the scale are wrong, the implementation cannot run here, there is no process
                group, or the ranks have different batches.
        """
        group = self.group()
        check_rows(inputs, group)
        first = next(iter(inputs.values()))
        impl = select_impl(self.impl, first)
        fixed = self.temperature if scale is None else scale
        check_transforms(impl, *inputs.values(), fixed)
        name, wide, on_cpu = (
            "temperature" if scale is None else "the scale",
            vector_dtype(first.device),
            impl != "triton",
        )
        made = factor_tensor(name, fixed, first, wide, on_cpu=on_cpu)
        if scale is None:
            made = made.reciprocal()
        elif not isinstance(fixed, Tensor):
            fixed = 1.0 / fixed
        if group is not None:
            check_same_shape(first, group)
        options = LSEOptions(
            impl=impl,
            shift=exponent_shift(fixed, self.normalize),
            precision=tile_precision(impl, self.precision, first.dtype),
            deterministic=is_deterministic(self.deterministic),
            group=group,
        )
        watch = self.__dict__.get("watch")
        return Comparison(made, self.normalize, self.reduction, compute_dtype(first.dtype), options, watch)

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        tau = self._temperature if self.log_temperature is None else "learnable"
        return f"temperature={tau}, gather_distributed={self.gather_distributed}, impl={self.impl!r}"
