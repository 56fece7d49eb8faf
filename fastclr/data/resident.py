"""The loader that keeps a whole data set on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.data.decoded_set import ImageDataset
from fastclr.data.plan import Plan


class ResidentLoader:
    """Batches drawn from a data set that lies on the device.

    The order of an epoch is a function of ``(seed, epoch)`` only. Step ``s`` of rank ``r`` holds the images

        order[(s * world_size + r) * batch_size : (s * world_size + r + 1) * batch_size]

    so all ranks together see what one process with ``world_size * batch_size`` would see. The loader has no other
    state: a position is ``(seed, epoch, step)``, and :meth:`epoch` starts at any step.

    Args:
        dataset: the images; they are copied to ``device`` once.
        batch_size: images per rank and step.
        seed: key of the shuffling, ``0 .. 2**64 - 1``.
        shuffle: draw a new order for every epoch; False keeps the order of the data set.
        drop_last: leave out the images that do not fill a whole step of all ranks. False keeps them: the last step
            shares them evenly among the ranks and fills up with the first images of the epoch where they do not
            divide by the number of ranks (never with one rank).
        device: where images, ids and labels lie.
        rank: number of this process, ``0 .. world_size - 1``.
        world_size: number of processes.

    Raises:
        ValueError: the data set is empty or smaller than one step with ``drop_last``, or an argument is out of range,
            or the images do not fit into the free memory of a CUDA device.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Check the arguments, then move the images to ``device``."""
        self.plan = Plan(len(dataset), batch_size, seed, shuffle, drop_last, rank, world_size, dataset.source)
        self.device = torch.device(device)
        check_fits(dataset, self.device)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.skipped: dict[str, str] = {}  # what cannot be decoded was left out when the set was decoded
        self._data = Batch(dataset.images, dataset.ids, dataset.labels).to(self.device)

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        return len(self.plan)

    def order(self, epoch: int) -> Tensor:
        """Return the row indices of ``epoch`` over all ranks, int64 ``[N]`` on the CPU.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        return self.plan.order(epoch)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on.

        Args:
            epoch: number of the epoch, from 0.
            start_step: steps of this epoch that are already done, ``0 .. len(loader)``.

        Raises:
            ValueError: ``epoch`` is negative or ``start_step`` is out of range.
        """
        self.plan.check_start(epoch, start_step)
        return self._batches(self.plan.order(epoch).to(self.device), start_step)

    def _batches(self, order: Tensor, start_step: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        images = self._data.images
        for step in range(start_step, len(self)):
            rows = self.plan.rows(order, step)
            picked = images[rows] if isinstance(images, Tensor) else images.select(rows)
            yield Batch(picked, self._data.ids[rows], self._data.labels[rows])

    def close(self) -> None:
        """Do nothing: there are no threads or files, and the images go with the loader."""


def check_fits(dataset: ImageDataset, device: torch.device) -> None:
    """Raise ValueError when the images do not fit into the free memory of a CUDA ``device``."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if dataset.nbytes > free:
        raise ValueError(
            f"{dataset.source} takes {dataset.nbytes / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB free: "
            "load it with a smaller resize_shorter"
        )
