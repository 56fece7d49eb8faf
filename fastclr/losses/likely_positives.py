"""What the losses share that can leave out likely false negatives, by a margin above the positive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastclr.losses.options import RowOptions
from fastclr.losses.row_loss import RowLoss
from fastclr.losses.scalars import as_number

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FilteringLoss(RowLoss):
    """Base of the row-softmax losses that take a margin."""

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        *,
        margin: float | None = None,
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            margin: leave out what is more similar to a row than its positive by so much, ``<a_i, b_j> > <a_i, b_i> +
                margin``, as likely positives; of pairs, on either side. None for nothing. The choice has no gradient.
                For a positive temperature or scale.
            temperature, gather_distributed: as in :class:`fastclr.losses.row_loss.RowLoss`.
            **options: its other options.

        Raises:
            TypeError, ValueError: as there, or the margin is not a number.
        """
        super().__init__(temperature, gather_distributed, **options)
        self.margin = None if margin is None else as_number("margin", margin)
