"""A whole data set in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.batch import check_captions, check_fields, check_label_range, check_rows, chosen
from fastclr.data.fingerprint import Fingerprinted
from fastclr.data.indexed_set import ImageIndex
from fastclr.sources.reading import Interval


@dataclass(frozen=True)
class ImageDataset(Fingerprinted):
    """Decoded images in CPU memory with ids, labels and names.

    Args:
        images: uint8 ``[N, H, W, C]`` if all images have the same size, else :class:`~fastclr.RaggedImages`.
        ids: int64 ``[N]``; the rank of the image among all image files of its source, sorted by relative path. Files
            that cannot be decoded keep their rank, so ids depend neither on the decoder nor on the name of the root.
        labels: int64 ``[N]``, an index into ``classes``; -1 where the class is unknown.
        classes: class names in label order; empty for unlabelled data.
        names: path of each image relative to the folder of its split, with ``/`` between folders.
        source: where the images came from, for messages.
        skipped: ``(name, reason)`` of each file that was left out.
        captions: of each image, at least one; None if captions were not asked for.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a shape is wrong, the lengths differ, an image has no caption where others do, or a label is outside
            ``-1 .. len(classes) - 1``.
    """

    images: Tensor | RaggedImages
    ids: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    captions: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Check dtypes, shapes, lengths and the range of the labels."""
        check_fields(type(self).__name__, self.images, self.ids, self.labels)
        if len(self.names) != len(self.ids):
            raise ValueError(f"ImageDataset.names must have {len(self.ids)} entries, got {len(self.names)}")
        check_label_range(self.labels, self.classes)
        check_captions(type(self).__name__, self.captions, len(self))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether every image has a known class."""
        return len(self) > 0 and bool((self.labels >= 0).all())

    @property
    def nbytes(self) -> int:
        """Number of bytes of pixels."""
        return self.images.numel() if isinstance(self.images, Tensor) else self.images.data.numel()

    def _digest(self, header: list[Any]) -> str:
        """Return the digest of a header and all pixels."""
        digest = hashlib.blake2b(ascii(header).encode(), digest_size=16)
        if isinstance(self.images, Tensor):
            digest.update(ascii([list(self.images.shape[1:3])] * len(self)).encode())
            digest.update(self.images.cpu().contiguous().numpy().data)
        else:
            digest.update(ascii(self.images.sizes.tolist()).encode())
            for index in range(len(self)):
                digest.update(self.images.image(index).cpu().numpy().data)
        return digest.hexdigest()

    def select(self, indices: Tensor) -> ImageDataset:
        """Return the images at int64 row ``indices`` ``[n]``; their ids, names and labels stay with them.

        Raises:
            TypeError: ``indices`` is not int64.
            IndexError: an index is outside ``0 .. N - 1``.
        """
        check_rows(indices, len(self))
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.select(indices)
        return replace(
            self,
            images=images,
            ids=self.ids[indices],
            labels=self.labels[indices],
            names=chosen(self.names, indices),
            captions=None if self.captions is None else chosen(self.captions, indices),
        )


@dataclass(frozen=True)
class Splits:
    """Images to train on and, where there are labels, images to test on.

    Args:
        train: decoded images, or an index of images that a loader decodes.
        test: likewise; None if there are none.
        held_out: whether ``test`` was drawn from the training images, so that it depends on a seed.
        loader: the kind of loader for these images, an argument of :func:`~fastclr.data.make_loader`; ``resident`` if
            they are decoded.
        reason: why that kind was chosen, as a sentence.
        range: the values that became 0 and 255 in images of more than 8 bits, where ``auto`` was asked for.
        scaling: which range was used, in words; empty if there are no such images.
    """

    train: ImageDataset | ImageIndex
    test: ImageDataset | ImageIndex | None
    held_out: bool = False
    loader: Literal["resident", "dali", "torch"] = "resident"
    reason: str = "the images are decoded already"
    range: Interval | None = None
    scaling: str = ""
