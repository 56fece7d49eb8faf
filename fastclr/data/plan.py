"""Which images belong to a step: one function of (seed, epoch, step, rank) for all loaders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastclr.data.order import permutation


@dataclass(frozen=True)
class Plan:
    """The steps of an epoch.

    The order of an epoch is a function of ``(seed, epoch)`` only. Step ``s`` of rank ``r`` holds the images

        order[(s * world_size + r) * batch_size : (s * world_size + r + 1) * batch_size]

    so all ranks together see what one process with ``world_size * batch_size`` would see. There is no other state: a
    position is ``(seed, epoch, step)``.

    Args:
        count: number of images.
        batch_size: images per rank and step.
        seed: key of the shuffling, ``0 .. 2**64 - 1``.
        shuffle: draw a new order for every epoch; False keeps the order of the data set.
        drop_last: leave out the images that do not fill a whole step of all ranks. False keeps them: the last step
            shares them evenly among the ranks and fills up with the first images of the epoch where they do not
            divide by the number of ranks (never with one rank).
        rank: number of this process, ``0 .. world_size - 1``.
        world_size: number of processes.
        source: where the images come from, for error messages.

    Raises:
        ValueError: there are no images, or fewer than one step with ``drop_last``, or an argument is out of range.
    """

    count: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1
    source: str = "the data set"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in 0 .. world_size - 1, got rank {self.rank} of world_size {self.world_size}"
            )
        if self.count == 0:
            raise ValueError(f"the data set is empty: {self.source}")
        if self.drop_last and self.count < self.stride:
            raise ValueError(
                f"one step needs {self.stride} images (batch_size {self.batch_size} x {self.world_size} ranks), but "
                f"{self.source} has {self.count}: choose a smaller batch_size or drop_last=False"
            )
        permutation(0, self.seed, 0)  # a bad seed is an error now, not in the first epoch

    @property
    def stride(self) -> int:
        """Images that one step of all ranks takes."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        whole, rest = divmod(self.count, self.stride)
        return whole if self.drop_last or rest == 0 else whole + 1

    def order(self, epoch: int) -> Tensor:
        """Return the row indices of ``epoch`` over all ranks, int64 ``[count]`` on the CPU.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        return permutation(self.count, self.seed, epoch) if self.shuffle else torch.arange(self.count)

    def check_start(self, epoch: int, start_step: int) -> None:
        """Raise ValueError when there is no such position."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step must be in 0 .. {len(self)}, got {start_step}")

    def positions(self, step: int) -> range:
        """Return this rank's places of ``step`` in the order of the epoch; from ``count`` on they wrap around."""
        start = step * self.stride
        share = -(-min(self.stride, self.count - start) // self.world_size)
        return range(start + self.rank * share, start + (self.rank + 1) * share)

    def rows(self, order: Tensor, step: int) -> Tensor:
        """Return this rank's rows of ``step``, int64 ``[batch_size]`` (fewer in a last step), where ``order`` lies."""
        places = self.positions(step)
        return order[torch.arange(places.start, places.stop, device=order.device) % self.count]

    def candidates(self, order: Tensor, position: int) -> Iterator[int]:
        """Yield the row at ``position``, then the rows that stand in for it while it cannot be read.

        They begin at the same place of the next step, so that a batch does not hold an image twice, and go through the
        whole epoch, around its end.
        """
        planned = int(order[position % self.count])
        yield planned
        for place in range(position + self.stride, position + self.stride + self.count):
            row = int(order[place % self.count])
            if row != planned:
                yield row
