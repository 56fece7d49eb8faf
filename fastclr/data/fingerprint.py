"""Fingerprints of image sets, by which a resumed run knows its images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

from torch import Tensor


class Fingerprinted(ABC):
    """An image set with a fingerprint that does not depend on where the data is stored."""

    ids: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] | None

    @abstractmethod
    def _digest(self, header: list[Any]) -> str:
        """Return the hexadecimal digest of a header and the images."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digests, joined by ``-``: of names, ids and images, of the labels, and of captions if it has any.

        Decoded images are digested by their pixels, files by their sizes, so the two differ.
        """
        parts = [self.image_fingerprint, short_digest([self.classes, self.labels.tolist()])]
        return "-".join(parts if self.captions is None else [*parts, short_digest(list(self.captions))])

    @cached_property
    def image_fingerprint(self) -> str:
        """The first part of `fingerprint`."""
        return self._digest([self.names, self.ids.tolist()])

    def joint_fingerprint(self) -> str:
        """Return the one digest of images and labels that runs before 0.1.0 have stored."""
        return self._digest([self.classes, self.names, self.ids.tolist(), self.labels.tolist()])


def short_digest(values: list[Any]) -> str:
    """Return the digest of values that Python can write down."""
    return hashlib.blake2b(ascii(values).encode(), digest_size=8).hexdigest()
