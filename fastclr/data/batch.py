"""The batch that every loader yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fastclr.augment.images import MAX_CHANNELS, RaggedImages

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Decoded images with their ids and labels, and with their captions where training has asked for them.

    ``text_ids`` and ``image_ids`` say which rows must not be negatives of each other: two captions that read the same
    to the text tower, and two copies of one picture under different ids. They are fingerprints of the content, so the
    batches of all processes can be compared; see :mod:`fastclr.data.content_ids`.

    Args:
        images: uint8 ``[N, H, W, C]`` when all images have one size, else :class:`~fastclr.RaggedImages`.
        ids: int64 ``[N]``; the id of an image keys its augmentation and never changes between epochs or loaders.
        labels: int64 ``[N]``; -1 where the class is unknown.
        texts: int64 ``[N, L]``, the tokens of one caption of each image, padded by the tokenizer; None without.
        text_ids: int64 ``[N]``, equal where the rows of ``texts`` are; None without captions.
        image_ids: int64 ``[N]``, equal where size and pixels of the images are; None without captions.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a shape is wrong or the lengths differ.
    """

    images: Tensor | RaggedImages
    ids: Tensor
    labels: Tensor
    texts: Tensor | None = None
    text_ids: Tensor | None = None
    image_ids: Tensor | None = None

    def __post_init__(self) -> None:
        """Check dtypes, shapes and lengths."""
        owner, count = type(self).__name__, len(self.ids)
        check_fields(owner, self.images, self.ids, self.labels)
        for name, wanted in (("texts", f"[{count}, L]"), ("text_ids", f"[{count}]"), ("image_ids", f"[{count}]")):
            tensor: Tensor | None = getattr(self, name)
            if tensor is None:
                continue
            if tensor.dtype != torch.int64:
                raise TypeError(f"{owner}.{name} must be torch.int64, got {tensor.dtype}")
            if tensor.dim() != (2 if name == "texts" else 1) or len(tensor) != count:
                raise ValueError(f"{owner}.{name} must be {wanted} like images, got {list(tensor.shape)}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch on ``device``; ``non_blocking``: copies from pinned memory are not awaited."""
        return self._each(
            self.images.to(device, non_blocking=non_blocking),
            lambda tensor: tensor.to(device, non_blocking=non_blocking),
        )

    def select(self, rows: Tensor) -> Batch:
        """Return the images at int64 ``rows`` ``[n]``, on their device."""
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.select(rows)
        return self._each(images, lambda tensor: tensor[rows])

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory of the CPU."""
        return self._each(self.images.pin_memory(), Tensor.pin_memory)

    def _each(self, images: Tensor | RaggedImages, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of ``images`` and, of all other fields, what ``function`` makes of them."""
        texts, text_ids, image_ids = (
            None if tensor is None else function(tensor) for tensor in (self.texts, self.text_ids, self.image_ids)
        )
        return Batch(images, function(self.ids), function(self.labels), texts, text_ids, image_ids)


def check_fields(owner: str, images: Tensor | RaggedImages, ids: Tensor, labels: Tensor) -> None:
    """Check the fields that :class:`Batch` and :class:`~fastclr.data.ImageDataset` share.

    Raises:
        TypeError: a field has the wrong dtype.
        ValueError: a shape is wrong or the lengths differ.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8:
            raise TypeError(f"{owner}.images must be torch.uint8, got {images.dtype}")
        if images.dim() != 4 or not 1 <= images.shape[-1] <= MAX_CHANNELS:
            raise ValueError(
                f"{owner}.images must be [N, H, W, C] with 1 to {MAX_CHANNELS} channels, got {list(images.shape)}"
            )
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


def check_captions(owner: str, captions: tuple[tuple[str, ...], ...] | None, count: int) -> None:
    """Raise a ValueError unless there are no captions, or at least one for each of ``count`` images."""
    if captions is None:
        return
    if len(captions) != count:
        raise ValueError(f"{owner}.captions must have {count} entries, got {len(captions)}")
    if not all(captions):
        raise ValueError(
            f"{owner}.captions must hold at least one for each image, got none for row {captions.index(())}"
        )


def chosen(items: tuple[Item, ...], indices: Tensor) -> tuple[Item, ...]:
    """Return the items at int64 ``indices`` ``[n]``."""
    return tuple(items[index] for index in indices.tolist())
