"""What the row-softmax losses share: their options as a module, and the comparison of the rows of one call.

A loss checks its inputs, asks :meth:`RowLoss.compare` for a :class:`Comparison`, and is then a few lines of autograd on
the vectors that :meth:`Comparison.lse` and :meth:`Comparison.similarity` return.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from fastclr.losses.inputs import (
    IMPLS,
    PRECISIONS,
    REDUCTIONS,
    Impl,
    Precision,
    Reduction,
    check_option,
    check_temperature,
    exponent_shift,
    matmul_precision,
    select_impl,
)
from fastclr.losses.inputs import unit_rows as reference_unit_rows
from fastclr.losses.lse_op import LSEOptions, lse
from fastclr.losses.row_dots import every, row_dots
from fastclr.losses.row_inputs import as_number, check_factor, check_rows, check_transforms, factor_tensor
from fastclr.losses.tiles import compute_dtype, vector_dtype
from fastclr.losses.unit_rows import UnitRows
from fastclr.parallel import check_same_shape, resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

HALF_TILES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


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

    def rows(self, inputs: Tensor) -> Tensor:
        """The rows to compare: of unit length if normalised; float64 stays float64, everything else is float32."""
        if not self.normalize:
            return inputs.to(compute_dtype(inputs.dtype))
        if self.options.impl == "reference":
            return reference_unit_rows(inputs.to(compute_dtype(inputs.dtype)))
        unit: Tensor = UnitRows.apply(inputs)
        return unit

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """``s_i = scale <a_i, b_i>`` of the rows of all ranks, in the dtype of per-row values."""
        return self.every(self.dots(first, second) * self.scale)

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
    ) -> Tensor:
        """Log-sum-exp of every row of all ranks, see :func:`fastclr.losses.lse_op.lse`.

        Args:
            q, k, exclude, ids, limit: as there.
            factor: multiplies the scale.
            local: the columns are this rank's own affair (a queue): they are not gathered.

        Returns:
            ``[W n]`` in the dtype of per-row values.
        """
        options = self.options._replace(group=None) if local else self.options
        scale = self.scale if factor == 1.0 else self.scale * factor
        if limit is not None:
            limit = limit.to(vector_dtype(q.device))
        rows, _ = lse(q, k, scale, options, exclude=exclude, ids=ids, limit=limit)
        rows = rows.to(vector_dtype(q.device))
        return self.every(rows) if local else rows

    def both_lse(self, q: Tensor, k: Tensor, exclude: str) -> tuple[Tensor, Tensor]:
        """Log-sum-exps of every row and of every column of all ranks."""
        rows, columns = lse(q, k, self.scale, self.options, exclude=exclude, both=True)
        wide = vector_dtype(q.device)
        return rows.to(wide), columns.to(wide)

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
        fixed = self.scale.detach()
        return fixed + (self.scale - fixed) / distributed.get_world_size(group)

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


class RowLoss(nn.Module):
    """Base of the row-softmax losses: their options, checked and stored."""

    log_temperature: nn.Parameter | None

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        *,
        learnable_temperature: bool = False,
        normalize: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "auto",
        impl: Impl = "auto",
        deterministic: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            temperature: tau, a finite number with ``|tau| >= 1e-8``, or a 0-dim tensor, with or without gradient.
            gather_distributed: compare the rows of all ranks.
            learnable_temperature: make ``log_temperature`` a parameter, ``tau = exp(log_temperature)``. Exempt it from
                weight decay, which would pull tau to 1.
            normalize: divide every row by ``max(|u|, 1e-12)`` first; rows no longer than 1e-12 get no gradient.
            reduction: "mean", "sum" or "none".
            precision: of the matrix products of float32 inputs, as in :func:`fastclr.nt_xent`.
            impl: "triton" (CUDA; CPU tensors under TRITON_INTERPRET=1), "blockwise" (plain PyTorch, any device),
                "reference" (dense, differentiable twice), or "auto": triton for CUDA tensors except float64, else
                blockwise.
            deterministic: bitwise reproducible; None follows ``torch.are_deterministic_algorithms_enabled()``.
            process_group: the ranks to gather over; None for all of them.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: another argument is out of range; the message says what was expected.
        """
        super().__init__()
        check_option("reduction", reduction, REDUCTIONS)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        if process_group is not None and not gather_distributed:
            raise ValueError("process_group is only used for gathering: pass gather_distributed=True with it")
        if gather_distributed and (reduction == "none" or impl == "reference"):
            raise ValueError(
                f"gathering over a process group needs impl 'auto', 'triton' or 'blockwise' and reduction 'mean' or "
                f"'sum', got impl={impl!r}, reduction={reduction!r}"
            )
        self.gather_distributed = gather_distributed
        self.normalize = normalize
        self.reduction: Reduction = reduction
        self.precision: Precision = precision
        self.impl: Impl = impl
        self.deterministic = deterministic
        self.process_group = process_group
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable_temperature else None
        self.temperature = temperature

    @property
    def temperature(self) -> float | Tensor:
        """tau: what was set, or ``exp(log_temperature)`` with its gradient if learnable."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    @temperature.setter
    def temperature(self, value: float | Tensor) -> None:
        """Check and store tau; a learnable one takes the value."""
        if isinstance(value, Tensor):
            check_factor("temperature", value)
        else:
            value = as_number("temperature", value)
            check_temperature(value)
        self._temperature = value
        if self.log_temperature is not None:
            if float(value) < 0:
                raise ValueError(f"a learnable temperature must be positive, got {value}")
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give a learnable temperature the value that was last set."""
        if self.log_temperature is not None:
            with torch.no_grad():
                self.log_temperature.fill_(math.log(float(self._temperature)))

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
        check_rows(inputs)
        first = next(iter(inputs.values()))
        impl = select_impl(self.impl, first)
        check_transforms(impl)
        wide = vector_dtype(first.device)
        if scale is None:
            tau = self.temperature
            fixed: float | Tensor = tau if isinstance(tau, Tensor) else float(tau)
            made = factor_tensor("temperature", fixed, first, impl != "triton", wide).reciprocal()
        else:
            fixed = scale if isinstance(scale, Tensor) else as_number("the scale", scale)
            made = factor_tensor("the scale", fixed, first, impl != "triton", wide)
            fixed = fixed if isinstance(fixed, Tensor) else 1.0 / fixed
        group = resolve_group(self.process_group) if self.gather_distributed else None
        if group is not None:
            check_same_shape(first, group)
        precision: str = self.precision
        if impl == "triton":
            precision = HALF_TILES.get(first.dtype, matmul_precision(precision, first.dtype))
        deterministic = self.deterministic
        options = LSEOptions(
            impl=impl,
            shift=exponent_shift(fixed, self.normalize),
            precision=precision,
            deterministic=torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic,
            group=group,
        )
        return Comparison(made, self.normalize, self.reduction, compute_dtype(first.dtype), options)

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        tau = self._temperature if self.log_temperature is None else "learnable"
        return f"temperature={tau}, gather_distributed={self.gather_distributed}, impl={self.impl!r}"
