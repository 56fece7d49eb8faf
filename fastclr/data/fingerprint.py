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

    @abstractmethod
    def _digest(self, header: list[Any]) -> str:
        """Return the hexadecimal digest of a header and the images."""

    @property
    def fingerprint(self) -> str:
        """Two hexadecimal digests, joined by ``-``: of names, ids and images, and of the labels.

        Decoded images are digested by their pixels, files by their sizes, so the two differ.
        """
        labels = hashlib.blake2b(ascii([self.classes, self.labels.tolist()]).encode(), digest_size=8)
        return f"{self.image_fingerprint}-{labels.hexdigest()}"

    @cached_property
    def image_fingerprint(self) -> str:
        """The first part of `fingerprint`."""
        return self._digest([self.names, self.ids.tolist()])

    def joint_fingerprint(self) -> str:
        """Return the one digest of images and labels that runs before 0.1.0 have stored."""
        return self._digest([self.classes, self.names, self.ids.tolist(), self.labels.tolist()])
