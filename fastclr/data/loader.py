"""What all loaders have in common, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch

from fastclr.data.batch import Batch
from fastclr.data.dali_loader import DaliLoader
from fastclr.data.decoded_set import ImageDataset
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.loader_choice import LoaderKind, check_kind, has_dali
from fastclr.data.resident import ResidentLoader
from fastclr.data.torch_loader import TorchLoader


class Loader(Protocol):
    """Batches of uint8 images in an order that is a function of ``(seed, epoch)``; see :class:`ResidentLoader`."""

    batch_size: int
    seed: int
    rank: int
    world_size: int

    @property
    def skipped(self) -> Mapping[str, str]:
        """Images that turned out to be unreadable since the loader was made: name to reason."""

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on."""

    def close(self) -> None:
        """Stop threads and processes and free what they hold; the loader cannot be used any more."""


def make_loader(
    images: ImageDataset | ImageIndex,
    kind: LoaderKind,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    workers: int | None = None,
    prefetch: int = 2,
    resize_shorter: int | None = None,
) -> Loader:
    """Return a loader for ``images``: :class:`ResidentLoader` for decoded ones, else the one that ``kind`` names.

    For an evaluation, take ``shuffle=False, drop_last=False``: every image once, in the order of the data.

    Args:
        images: decoded images, or an index.
        kind: ``dali``, ``torch``, or ``auto``: DALI if it is installed. It does not matter for decoded images.
        batch_size: images per rank and step.
        seed: key of the shuffling, ``0 .. 2**64 - 1``.
        shuffle: draw a new order for every epoch; False keeps the order of the data.
        drop_last: leave out the images that do not fill a whole step of all ranks.
        device: where the batches lie.
        rank: number of this process, ``0 .. world_size - 1``.
        world_size: number of processes.
        workers: threads (DALI) or processes (torch) that decode; None is one per core.
        prefetch: batches decoded ahead of the consumer (torch: by each worker).
        resize_shorter: bring the shorter side of larger images down to this many pixels; None: as the index says.

    Raises:
        ValueError: there is no such kind, an index is to be kept in memory, or an argument is out of range.
        ModuleNotFoundError: a package that the loader needs is not installed.
    """
    check_kind(kind)
    if isinstance(images, ImageDataset):
        return ResidentLoader(images, batch_size, seed, shuffle, drop_last, device, rank, world_size)
    if kind == "resident":
        raise ValueError(f"{images.source} is not decoded: load it with load_splits(..., loader='resident')")
    loader = DaliLoader if kind == "dali" or (kind == "auto" and has_dali()) else TorchLoader
    return loader(
        images,
        batch_size,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        device=device,
        rank=rank,
        world_size=world_size,
        workers=workers,
        prefetch=prefetch,
        resize_shorter=resize_shorter,
    )
