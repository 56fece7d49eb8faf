"""The interface of all loaders, and the function that makes one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch

from fastclr.data.batch import Batch
from fastclr.data.captioned import CaptionDraw, CaptionedLoader, Tokenize
from fastclr.data.dali_loader import DaliLoader
from fastclr.data.decoded_set import ImageDataset
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.loader_choice import LoaderKind, check_kind, has_dali
from fastclr.data.order import Order
from fastclr.data.resident import ResidentLoader
from fastclr.data.torch_loader import TorchLoader


class Loader(Protocol):
    """Batches of uint8 images; :class:`Order` states which images a step holds."""

    order: Order

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
    order: Order,
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    prefetch: int = 2,
    resize_shorter: int | None = None,
    tokenize: Tokenize | None = None,
) -> Loader:
    """Return a loader for ``images``: :class:`ResidentLoader` for decoded ones, else the one that ``kind`` names.

    Args:
        images: decoded images, or an index.
        kind: ``dali``, ``torch``, or ``auto``: DALI if it is installed. Ignored for decoded images.
        order: batch size, shuffling and ranks.
        device: where the batches go.
        workers: threads (DALI) or processes (torch) that decode; None is one per core.
        prefetch: batches decoded ahead of the consumer (torch: by each worker).
        resize_shorter: reduce the shorter side of larger images to this many pixels; None: as the index says.
        tokenize: from texts to tokens; batches then hold a caption of each image. None: no captions.

    Raises:
        TypeError: ``order`` is not an :class:`Order`.
        ValueError: there is no such kind, ``resident`` is asked for an index, ``tokenize`` is given for images without
            captions, or an argument is out of range.
        ModuleNotFoundError: a package that the loader needs is not installed.
    """
    check_kind(kind)
    if tokenize is not None:
        CaptionDraw(images, 0)  # fails before threads and processes start
    made: Loader
    if isinstance(images, ImageDataset):
        made = ResidentLoader(images, order, device=device)
    elif kind == "resident":
        raise ValueError(f"{images.source} is not decoded: load it with load_splits(..., loader='resident')")
    else:
        loader = DaliLoader if kind == "dali" or (kind == "auto" and has_dali()) else TorchLoader
        made = loader(images, order, device=device, workers=workers, prefetch=prefetch, resize_shorter=resize_shorter)
    return made if tokenize is None else CaptionedLoader(made, images, tokenize)
