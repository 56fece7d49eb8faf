"""The batch that every loader yields."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages


@dataclass(frozen=True)
class Batch:
    """Decoded images with their ids and labels.

    Args:
        images: uint8 ``[N, H, W, 3]`` when all images have one size, else :class:`~fastclr.RaggedImages`.
        ids: int64 ``[N]``; the id of an image keys its augmentation and never changes between epochs or loaders.
        labels: int64 ``[N]``; -1 where the class is unknown.

    Raises:
        TypeError: ``images``, ``ids`` or ``labels`` has the wrong dtype.
        ValueError: a shape is wrong or the three lengths differ.
    """

    images: Tensor | RaggedImages
    ids: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check dtypes, shapes and lengths."""
        check_fields(type(self).__name__, self.images, self.ids, self.labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch on ``device``; ``non_blocking``: copies from pinned memory are not awaited."""
        images = self.images.to(device, non_blocking=non_blocking)
        ids, labels = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.ids, self.labels))
        return Batch(images, ids, labels)

    def select(self, rows: Tensor) -> Batch:
        """Return the images at int64 ``rows`` ``[n]``, on their device."""
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.select(rows)
        return Batch(images, self.ids[rows], self.labels[rows])

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory of the CPU."""
        return Batch(self.images.pin_memory(), self.ids.pin_memory(), self.labels.pin_memory())


def check_fields(owner: str, images: Tensor | RaggedImages, ids: Tensor, labels: Tensor) -> None:
    """Check the fields that :class:`Batch` and :class:`~fastclr.data.ImageDataset` share.

    Raises:
        TypeError: a field has the wrong dtype.
        ValueError: a shape is wrong or the lengths differ.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8:
            raise TypeError(f"{owner}.images must be torch.uint8, got {images.dtype}")
        if images.dim() != 4 or images.shape[-1] != 3:
            raise ValueError(f"{owner}.images must be [N, H, W, 3], got {list(images.shape)}")
    for name, tensor in (("ids", ids), ("labels", labels)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"{owner}.{name} must be torch.int64, got {tensor.dtype}")
        if tensor.shape != (len(images),):
            raise ValueError(f"{owner}.{name} must be [{len(images)}] like images, got {list(tensor.shape)}")


def check_rows(indices: Tensor, count: int) -> None:
    """Raise TypeError unless ``indices`` is int64, and IndexError unless all are in ``0 .. count - 1``."""
    if indices.dtype != torch.int64:
        raise TypeError(f"indices must be torch.int64, got {indices.dtype}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise IndexError(f"indices must be in 0 .. {count - 1}, got {int(indices.min())} .. {int(indices.max())}")


def check_label_range(labels: Tensor, classes: tuple[str, ...]) -> None:
    """Raise ValueError if a label is neither -1 nor an index into ``classes``."""
    if len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= len(classes):
            raise ValueError(f"labels must be in -1 .. {len(classes) - 1}, got {low} .. {high}")
