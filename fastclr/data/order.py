"""The order of images: what decides it, and permutations that no version of NumPy or PyTorch changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UINT64_MAX = 2**64 - 1


def raw_bits(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    """Return ``count`` uint64 words of Philox4x64-10 with the key ``(seed, stream)``.

    The raw words of a NumPy bit generator are fixed for good; the distributions built on them are not.

    Raises:
        ValueError: ``seed`` or ``stream`` is outside ``0 .. 2**64 - 1``.
    """
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= value <= UINT64_MAX:
            raise ValueError(f"{name} must be in 0 .. 2**64 - 1, got {value}")
    key = np.array([seed, stream], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key).random_raw(count), dtype=np.uint64)


def permutation(count: int, seed: int, stream: int) -> Tensor:
    """Return a random order of ``0 .. count - 1`` as int64 ``[count]``, a function of its arguments only.

    Raises:
        ValueError: ``seed`` or ``stream`` is outside ``0 .. 2**64 - 1``.
    """
    return torch.from_numpy(np.argsort(raw_bits(count, seed, stream), kind="stable").astype(np.int64))


@dataclass(frozen=True)
class Order:
    """What decides which images a loader yields at each step of each epoch.

    The images of an epoch are permuted by a function of ``(seed, epoch)`` alone. Step ``s`` of rank ``r`` holds

        permuted[(s * world_size + r) * batch_size : (s * world_size + r + 1) * batch_size]

    so all ranks together see what one process with ``world_size * batch_size`` would see. Loaders have no other state:
    a position is ``(seed, epoch, step)``, and an epoch can start at any step. For an evaluation, take
    ``shuffle=False, drop_last=False``: every image once, in the order of the data set.

    Args:
        batch_size: images per rank and step.
        seed: key of the shuffling, ``0 .. 2**64 - 1``.
        shuffle: draw a new order for every epoch; False keeps the order of the data set.
        drop_last: leave out the images that do not fill a whole step of all ranks. False keeps them: the last step
            divides them evenly among the ranks, and is filled up with the first images of the epoch where their number
            is no multiple of ``world_size``.
        rank: number of this process, ``0 .. world_size - 1``.
        world_size: number of processes.

    Raises:
        ValueError: an argument is out of range.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in 0 .. world_size - 1, got rank {self.rank} of world_size {self.world_size}"
            )
        raw_bits(0, self.seed, 0)  # checks the seed

    @property
    def step_images(self) -> int:
        """Images that one step of all ranks takes."""
        return self.batch_size * self.world_size
