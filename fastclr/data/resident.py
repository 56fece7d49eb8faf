"""The loader that keeps a whole data set on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.data.dataset import ImageDataset
from fastclr.data.order import permutation


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
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 .. world_size - 1, got rank {rank} of world_size {world_size}")
        if len(dataset) == 0:
            raise ValueError(f"the data set is empty: {dataset.source}")
        if drop_last and len(dataset) < batch_size * world_size:
            raise ValueError(
                f"one step needs {batch_size * world_size} images (batch_size {batch_size} x {world_size} ranks), but "
                f"{dataset.source} has {len(dataset)}: choose a smaller batch_size or drop_last=False"
            )
        permutation(0, seed, 0)  # a bad seed is an error now, not in the first epoch
        self.device = torch.device(device)
        check_fits(dataset, self.device)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self._data = Batch(dataset.images, dataset.ids, dataset.labels).to(self.device)

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        whole, rest = divmod(len(self._data), self.batch_size * self.world_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def order(self, epoch: int) -> Tensor:
        """Return the row indices of ``epoch`` over all ranks, int64 ``[N]`` on the CPU.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        return permutation(len(self._data), self.seed, epoch) if self.shuffle else torch.arange(len(self._data))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on.

        Args:
            epoch: number of the epoch, from 0.
            start_step: steps of this epoch that are already done, ``0 .. len(loader)``.

        Raises:
            ValueError: ``epoch`` is negative or ``start_step`` is out of range.
        """
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step must be in 0 .. {len(self)}, got {start_step}")
        return self._batches(self.order(epoch).to(self.device), start_step)

    def _batches(self, order: Tensor, start_step: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        stride = self.batch_size * self.world_size
        for step in range(start_step, len(self)):
            rows = order[step * stride : (step + 1) * stride]
            share = -(-len(rows) // self.world_size)
            if share * self.world_size > len(rows):
                # with fewer images than ranks the epoch's first images may be needed more than once
                missing = torch.arange(share * self.world_size - len(rows), device=order.device) % len(order)
                rows = torch.cat([rows, order[missing]])
            rows = rows[self.rank * share : (self.rank + 1) * share]
            images = self._data.images
            picked = images[rows] if isinstance(images, Tensor) else images.select(rows)
            yield Batch(picked, self._data.ids[rows], self._data.labels[rows])


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
