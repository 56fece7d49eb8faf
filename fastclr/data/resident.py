"""The loader that keeps a whole data set on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastclr.data.batch import Batch
from fastclr.data.decoded_set import ImageDataset
from fastclr.data.order import Order
from fastclr.data.plan import Plan


class ResidentLoader:
    """Batches drawn from a data set that is kept on the device.

    Args:
        dataset: the images; they are copied to ``device`` once.
        order: batch size, shuffling and ranks.
        device: where images, ids and labels are kept.

    Raises:
        TypeError: ``order`` is not an :class:`~fastclr.data.Order`.
        ValueError: the data set is empty or smaller than one step with ``drop_last``, or the images do not fit into the
            free memory of a CUDA device.
    """

    def __init__(self, dataset: ImageDataset, order: Order, *, device: torch.device | str = "cpu") -> None:
        """Check the arguments, then move the images to ``device``."""
        self.plan = Plan(len(dataset), order, dataset.source)
        self.device = torch.device(device)
        check_fits(dataset, self.device)
        self.order = order
        self.skipped: dict[str, str] = {}  # unreadable images were left out when the set was decoded
        self._data = Batch(dataset.images, dataset.ids, dataset.labels).to(self.device)

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        return len(self.plan)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on.

        Args:
            epoch: number of the epoch, from 0.
            start_step: steps of this epoch that are already done, ``0 .. len(loader)``.

        Raises:
            ValueError: ``epoch`` is negative or ``start_step`` is out of range.
        """
        self.plan.check_start(epoch, start_step)
        return self._batches(self.plan.permuted(epoch).to(self.device), start_step)

    def _batches(self, permuted: Tensor, start_step: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        for step in range(start_step, len(self)):
            yield self._data.select(self.plan.rows(permuted, step))

    def close(self) -> None:
        """Do nothing: there are no threads or open files, and the images are freed with the loader."""


def check_fits(dataset: ImageDataset, device: torch.device) -> None:
    """Raise ValueError if the images do not fit into the free memory of a CUDA ``device``."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if dataset.nbytes > free:
        raise ValueError(
            f"{dataset.source} takes {dataset.nbytes / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB free: "
            "load it with a smaller resize_shorter"
        )
