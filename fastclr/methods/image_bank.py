"""A bank with one embedding for every training image, which serve as positives and negatives (PIRL)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.methods.base import KeptEqual


class ImageBank(KeptEqual):
    """Unit vectors ``[images, D]``, random ones at first, from torch's global generator; the same on every process.

    Args:
        ids: int64 ``[images]``, of the training images.
        dim: length D of an embedding.
    """

    ids: Tensor
    rows: Tensor

    def __init__(self, ids: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("ids", ids.sort().values.clone())
        self.register_buffer("rows", F.normalize(torch.randn(len(ids), dim), dim=1))

    def slots(self, ids: Tensor) -> Tensor:
        """Return where images lie in the bank, int64 ``[n]``."""
        return torch.searchsorted(self.ids, ids.to(self.ids.device))

    @torch.no_grad()
    def move(self, slots: Tensor, embeddings: Tensor, momentum: float) -> None:
        """``m <- unit(momentum m + (1 - momentum) unit(z))`` for some images, each at most once.

        Args:
            slots: int64 ``[n]``.
            embeddings: z ``[n, D]`` of these images.
            momentum: from 0, the new embedding alone, to 1.
        """
        fresh = F.normalize(embeddings.to(self.rows.dtype), dim=1)
        self.rows[slots] = F.normalize(torch.lerp(fresh, self.rows[slots], momentum), dim=1)
