"""A queue of past embeddings that serve as negatives (MoCo), with lightly's semantics."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """Ring buffer of the last K keys, initialised with random unit vectors; absent from state_dict, as in lightly.

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020, and lightly.
    """

    bank: Tensor

    def __init__(self, size: int, dim: int) -> None:
        """Fill the bank using the global random number generator.

        Args:
            size: number of keys K.
            dim: length D of a key.
        """
        super().__init__()
        self.register_buffer("bank", nn.functional.normalize(torch.randn(size, dim), dim=1), persistent=False)
        self.position = 0

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrite the oldest keys. As in lightly, keys beyond the end are dropped and the next push starts at 0.

        Args:
            keys: ``[N, D]``, converted to the bank's dtype.
        """
        room = len(self.bank) - self.position
        self.bank[self.position : self.position + len(keys)] = keys[:room].to(self.bank.dtype)
        self.position = self.position + len(keys) if len(keys) < room else 0

    def extra_repr(self) -> str:
        """Size and dimension."""
        return f"size={self.bank.shape[0]}, dim={self.bank.shape[1]}"
