"""Prototypes that embeddings are assigned to, and the centre of these assignments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.methods.base import KeptEqual


class Prototypes(nn.Module):
    """Logits ``<z, w_k>`` of unit z ``[n, D]`` and unit rows w_k ``[K, D]``: a linear layer, weight-normed to 1."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.uniform_(torch.empty(count, dim), -(dim**-0.5), dim**-0.5))

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits ``[n, K]``."""
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))


class Centre(KeptEqual):
    """The mean of the targets' logits, followed slowly."""

    value: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(count))
