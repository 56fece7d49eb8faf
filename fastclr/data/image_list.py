"""The images of a source in a fixed order, read as a stream: what does not fit into memory can still be embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastclr.data.decode_many import DecodeOptions
from fastclr.sources.decode import Pixels

Split = Literal["all", "train", "test"]


@dataclass(frozen=True)
class ImageList:
    """The images of a source in a fixed order; an image's row in it is its id.

    Args:
        names: path of each image.
        labels: int64 ``[N]``, -1 where the class is unknown.
        classes: names of the classes.
        read: yields ``(row, pixels)`` of the rows asked for, in the order in which they are stored; in place of the
            pixels of an image that cannot be decoded, the reason.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    read: Callable[[Collection[int], DecodeOptions], Iterator[tuple[int, Pixels | str]]]

    def digest(self) -> str:
        """Return a digest of names, labels and classes."""
        text = ascii([self.names, self.labels.tolist(), self.classes])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
