"""Which images belong to a step: one function of (seed, epoch, step, rank) for all loaders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastclr.data.order import Order, permutation


@dataclass(frozen=True)
class Plan:
    """The steps of an epoch over ``count`` images; :class:`Order` states the rule.

    Args:
        count: number of images.
        order: batch size, shuffling and ranks.
        source: where the images come from, for error messages.

    Raises:
        TypeError: ``order`` is not an :class:`Order`.
        ValueError: there are no images, or fewer than one step with ``drop_last``.
    """

    count: int
    order: Order
    source: str = "the data set"

    def __post_init__(self) -> None:
        """Check that there is at least one step."""
        if not isinstance(self.order, Order):
            raise TypeError(f"order must be a fastclr.data.Order, got {type(self.order).__name__}")
        if self.count == 0:
            raise ValueError(f"the data set is empty: {self.source}")
        needed = self.order.step_images
        if self.order.drop_last and self.count < needed:
            raise ValueError(
                f"one step needs {needed} images (batch_size {self.order.batch_size} x {self.order.world_size} ranks), "
                f"but {self.source} has {self.count}: choose a smaller batch_size"
            )

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        whole, rest = divmod(self.count, self.order.step_images)
        return whole if self.order.drop_last or rest == 0 else whole + 1

    def permuted(self, epoch: int) -> Tensor:
        """Return all rows in the order of ``epoch``, int64 ``[count]`` on the CPU, the same on every rank.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        return permutation(self.count, self.order.seed, epoch) if self.order.shuffle else torch.arange(self.count)

    def check_start(self, epoch: int, start_step: int) -> None:
        """Raise ValueError if there is no such position."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step must be in 0 .. {len(self)}, got {start_step}")

    def positions(self, step: int) -> range:
        """Return this rank's places of ``step`` in the permuted images; from ``count`` on they wrap around."""
        start = step * self.order.step_images
        share = -(-min(self.order.step_images, self.count - start) // self.order.world_size)
        return range(start + self.order.rank * share, start + (self.order.rank + 1) * share)

    def rows(self, permuted: Tensor, step: int) -> Tensor:
        """Return this rank's rows of ``step``, int64 ``[batch_size]`` (fewer in a last step), on permuted's device."""
        places = self.positions(step)
        return permuted[torch.arange(places.start, places.stop, device=permuted.device) % self.count]

    def candidates(self, permuted: Tensor, position: int) -> Iterator[int]:
        """Yield the row at ``position``, then those to try in its place, in turn, if it cannot be read.

        These begin at the same place of the next step, so that a batch does not hold an image twice, and run through
        the whole epoch, wrapping around at its end.
        """
        planned = int(permuted[position % self.count])
        yield planned
        first = position + self.order.step_images
        for place in range(first, first + self.count):
            row = int(permuted[place % self.count])
            if row != planned:
                yield row
