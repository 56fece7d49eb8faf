"""The ring of keys: embeddings of the last batches, which serve as negatives (MoCo's queue)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.methods.base import KeptEqual


class KeyRing(KeptEqual):
    """The last K keys of all processes, unit vectors ``[K, D]``; random ones at first, from torch's global generator.

    Every process stores the keys of all processes. Where a batch goes is a function of the step, so that a run resumes
    without other state: ``(step B) mod K``.

    Args:
        size: number of keys K, a multiple of the keys B of a step of all processes.
        dim: length D of a key.
    """

    keys: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))

    @torch.no_grad()
    def push(self, keys: Tensor, step: int) -> None:
        """Replace the oldest keys.

        Args:
            keys: ``[B, D]``, of all processes; they are scaled to unit length.
            step: index of the step, from 0.
        """
        start = step * len(keys) % len(self.keys)
        self.keys[start : start + len(keys)] = F.normalize(keys.to(self.keys.dtype), dim=1)


class IdRing(KeptEqual):
    """The ids of the pictures and captions of which a `KeyRing` has the keys, int64 ``[K, 2]``; -1 at first.

    Args:
        size: number of keys K.
    """

    ids: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("ids", torch.full((size, 2), -1))

    @torch.no_grad()
    def push(self, ids: Tensor, step: int) -> None:
        """Replace the oldest ids by those of a step, ``[B, 1 or 2]``."""
        start = step * len(ids) % len(self.ids)
        self.ids[start : start + len(ids), : ids.shape[1]] = ids


def check_divides(name: str, size: int, batch: int) -> None:
    """Raise a ValueError that names the two nearest sizes unless `size` is a multiple of the keys of a step."""
    if size % batch == 0 and size > 0:
        return
    below = size // batch * batch
    nearest = " or ".join(str(each) for each in (below, below + batch) if each)
    raise ValueError(f"{name} must be a multiple of the {batch} keys of a step, such as {nearest}, got {size}")
