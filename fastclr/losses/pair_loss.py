"""What the losses on ``softplus_pairs`` share: options as a module, rows, and the reduction over rows and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from fastclr.losses.inputs import check_views, select_impl, tile_precision
from fastclr.losses.options import ComparingLoss, LossOptions, is_deterministic
from fastclr.losses.row_dots import share_gradient
from fastclr.losses.softplus_op import SoftplusOptions
from fastclr.losses.tiles import compute_dtype
from fastclr.losses.transforms import check_transforms
from fastclr.losses.unit_rows import comparable
from fastclr.parallel import check_same_shape

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PairLoss(ComparingLoss):
    """Base of SigLIP, NT-Logistic and the margin triplet."""

    def __init__(self, gather_distributed: bool = False, **options: Unpack[LossOptions]) -> None:
        """Check and store the options.

        Args:
            gather_distributed: compare the rows of all ranks.
            **options: those of :class:`fastclr.losses.options.ComparingLoss`.

        Raises:
            ValueError: an option is out of range; the message says what was expected.
        """
        super().__init__(gather_distributed, **options)

    def prepare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, SoftplusOptions]:
        """Check the views ``[N, D]``; return them as rows of the compute dtype, normalised, and the options.

        Raises:
            TypeError: they are not dense floating-point tensors of one dtype.
            ValueError: shapes or devices differ, the implementation cannot run here, there is no process group, the
                ranks have different batches, or torch.func or torch.export meets the fused computation.
        """
        group = self.group()
        check_views(first, second, group)
        if group is not None:
            check_same_shape(first, group)
        impl, dtype = select_impl(self.impl, first), first.dtype
        check_transforms(impl, first, second, *self.parameters())
        first, second = (comparable(x, self.normalize, impl) for x in (first, second))
        reduce = self.reduction != "none"
        options = SoftplusOptions(
            reduce=reduce,
            precision=tile_precision(impl, self.precision, dtype),
            impl=impl,
            group=group,
            deterministic=is_deterministic(self.deterministic),
        )
        return first, second, options

    def reduce(self, loss: Tensor, rows: int, options: SoftplusOptions, dtype: torch.dtype) -> Tensor:
        """The loss of the local rows, summed already unless for "none", as the mean over `rows` or as it is."""
        if self.reduction == "mean":
            loss = loss / rows
        elif self.reduction == "sum" and options.group is not None:
            # the mean over the ranks, which DistributedDataParallel takes, becomes the sum
            loss = share_gradient(loss, distributed.get_world_size(options.group))
        return loss.to(compute_dtype(dtype))

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        return f"gather_distributed={self.gather_distributed}, reduction={self.reduction!r}, impl={self.impl!r}"
