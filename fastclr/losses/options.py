"""The options that all losses of rows and of pairs take, checked and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch
from torch import nn

from fastclr.losses.inputs import (
    IMPLS,
    PRECISIONS,
    REDUCTIONS,
    Impl,
    Precision,
    Reduction,
    check_option,
)
from fastclr.parallel import resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class LossOptions(TypedDict, total=False):
    """Keywords of :class:`ComparingLoss`, where they are explained."""

    normalize: bool
    reduction: Reduction
    precision: Precision
    impl: Impl
    deterministic: bool | None
    process_group: ProcessGroup | None


class RowOptions(LossOptions, total=False):
    """Those of :class:`fastclr.losses.row_loss.RowLoss`."""

    learnable_temperature: bool


class PairOptions(LossOptions, total=False):
    """Those of :class:`fastclr.losses.pair_loss.PairLoss`."""

    gather_distributed: bool


class ComparingLoss(nn.Module):
    """Base of the losses that compare rows."""

    def __init__(
        self,
        gather_distributed: bool = False,
        *,
        normalize: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "auto",
        impl: Impl = "auto",
        deterministic: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            gather_distributed: compare the rows of all ranks. The value covers the local rows; the gradient is that of
                the whole batch times the world size, which DistributedDataParallel divides by. The backward
                communicates nothing.
            normalize: divide every row by ``max(|u|, 1e-12)`` first; rows no longer than 1e-12 get no gradient.
            reduction: "mean" over the rows that are compared, "sum", or "none".
            precision: of the matrix products of float32 inputs, as in :func:`fastclr.nt_xent`.
            impl: "triton" (CUDA; CPU tensors under TRITON_INTERPRET=1), "blockwise" (plain PyTorch, any device),
                "reference" (dense, differentiable twice), or "auto": triton for CUDA tensors except float64, else
                blockwise.
            deterministic: bitwise reproducible; None follows ``torch.are_deterministic_algorithms_enabled()``. On a CPU
                every result is.
            process_group: the ranks to gather over; None for all of them.

        Raises:
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__()
        check_option("reduction", reduction, REDUCTIONS)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        check_gathering(gather_distributed, process_group)
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

    def group(self) -> ProcessGroup | None:
        """The ranks to gather over, None for one process.

        Raises:
            ValueError: gather_distributed, and no process group is initialised.
        """
        return resolve_group(self.process_group) if self.gather_distributed else None


def check_gathering(gather_distributed: bool, process_group: ProcessGroup | None) -> None:
    """Raise a ValueError for a process group that nothing would use."""
    if process_group is not None and not gather_distributed:
        raise ValueError("process_group is only used for gathering: pass gather_distributed=True with it")


def is_deterministic(asked: bool | None) -> bool:
    """What the option `deterministic` asks for; None follows PyTorch's own setting."""
    return torch.are_deterministic_algorithms_enabled() if asked is None else asked
