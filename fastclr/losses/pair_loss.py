"""What the losses on ``softplus_pairs`` share: options as a module, rows, and the reduction over rows and ranks."""

from __future__ import annotations

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
    check_views,
    unit_rows,
)
from fastclr.losses.softplus_op import SoftplusOptions
from fastclr.losses.tiles import compute_dtype
from fastclr.losses.transforms import check_transforms
from fastclr.parallel import check_same_shape, resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class PairLoss(nn.Module):
    """Base of SigLIP, NT-Logistic and the margin triplet."""

    def __init__(
        self,
        gather_distributed: bool = False,
        *,
        normalize: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "auto",
        impl: Impl = "auto",
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            gather_distributed: compare the rows of all ranks. The value covers the local rows; the gradient is that of
                the whole batch times the world size, which DistributedDataParallel divides by. The backward
                communicates nothing.
            normalize: divide every row by ``max(|u|, 1e-12)`` first; rows no longer than 1e-12 get no gradient.
            reduction: "mean" over the rows that are compared, "sum", or "none".
            precision: of float32 matrix products, as in :func:`fastclr.nt_xent`.
            impl: "blockwise" (plain PyTorch, any device), "reference" (dense, differentiable twice), or "auto":
                blockwise.
            process_group: the ranks to gather over; None for all of them.

        Raises:
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__()
        check_option("reduction", reduction, REDUCTIONS)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        if impl == "triton":
            raise ValueError("this loss has no kernel in Triton: use impl='auto' or 'blockwise', which run anywhere")
        if process_group is not None and not gather_distributed:
            raise ValueError("process_group is only used for gathering: pass gather_distributed=True with it")
        if gather_distributed and (reduction == "none" or impl == "reference"):
            raise ValueError(
                f"gathering over a process group needs impl 'auto' or 'blockwise' and reduction 'mean' or 'sum', got "
                f"impl={impl!r}, reduction={reduction!r}"
            )
        self.gather_distributed = gather_distributed
        self.normalize = normalize
        self.reduction: Reduction = reduction
        self.precision: Precision = precision
        self.impl: Impl = impl
        self.process_group = process_group

    def prepare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, SoftplusOptions]:
        """Check the views ``[N, D]``; return them as rows of the compute dtype, normalised, and the options.

        Raises:
            TypeError: they are not dense floating-point tensors of one dtype.
            ValueError: shapes or devices differ, there is no process group, the ranks have different batches, or
                torch.func or torch.export meets the fused computation.
        """
        check_views(first, second)
        group = resolve_group(self.process_group) if self.gather_distributed else None
        if group is not None:
            check_same_shape(first, group)
        impl = "reference" if self.impl == "reference" else "blockwise"
        if impl != "reference":
            check_transforms(first, second)
        wide = compute_dtype(first.dtype)
        rows = (first.to(wide), second.to(wide))
        if self.normalize:
            rows = (unit_rows(rows[0]), unit_rows(rows[1]))
        reduce = self.reduction != "none"
        return *rows, SoftplusOptions(reduce=reduce, precision=self.precision, impl=impl, group=group)

    def reduce(self, loss: Tensor, rows: int, options: SoftplusOptions, dtype: torch.dtype) -> Tensor:
        """The loss of the local rows, summed already unless for "none", as the mean over `rows` or as it is."""
        if self.reduction == "mean":
            loss = loss / rows
        elif self.reduction == "sum" and options.group is not None:
            # the mean over the ranks, which DistributedDataParallel takes, becomes the sum
            loss = loss + (distributed.get_world_size(options.group) - 1) * (loss - loss.detach())
        return loss.to(compute_dtype(dtype))

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        return f"gather_distributed={self.gather_distributed}, reduction={self.reduction!r}, impl={self.impl!r}"
