"""Losses with the call conventions of lightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastclr.losses import DCLLoss as _DCLLoss
from fastclr.losses import MemoryBank
from fastclr.losses import NTXentLoss as _NTXentLoss
from fastclr.losses.inputs import check_views, unit_rows


class NTXentLoss(_NTXentLoss):
    """``lightly.loss.NTXentLoss``: :class:`fastclr.NTXentLoss`, whose bank may also be a plain number of keys."""

    def __init__(
        self, temperature: float = 0.5, memory_bank_size: int | Sequence[int] = 0, gather_distributed: bool = False
    ) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau.
            memory_bank_size: 0 for none; the number of keys, as long as the first embeddings; or (number, length).
            gather_distributed: compare the rows of all ranks.

        Raises:
            TypeError, ValueError: as :class:`fastclr.NTXentLoss`.
        """
        keys = memory_bank_size if isinstance(memory_bank_size, int) else 0
        if keys < 0:
            raise ValueError(f"memory_bank_size must not be negative, got {keys}")
        super().__init__(temperature, 0 if isinstance(memory_bank_size, int) else memory_bank_size, gather_distributed)
        self.keys = keys

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``; errors as in :class:`fastclr.NTXentLoss`."""
        if self.keys and self.memory_bank is None:
            check_views(out0, out1)
            self.memory_bank = MemoryBank(self.keys, out0.shape[1]).to(out0.device, out0.dtype)
        return super().forward(out0, out1)


class DCLLoss(nn.Module):
    """``lightly.loss.DCLLoss``: the mean over both views, ``weight_fn`` on normalised rows."""

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool = False,
    ) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau.
            weight_fn: from the rows of both views, ``[N, D]``, to a factor ``[N]`` of the positives.
            gather_distributed: the negatives of all ranks count; only without weight_fn.

        Raises:
            TypeError, ValueError: as :class:`fastclr.DCLLoss`, or weight_fn with gather_distributed.
        """
        super().__init__()
        if weight_fn is not None and gather_distributed:
            raise ValueError("gather_distributed needs weight_fn None, or DCLWLoss for the weights of the paper")
        self.weight_fn = weight_fn
        self.loss = _DCLLoss(temperature, gather_distributed, reduction="mean" if weight_fn is None else "none")

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``; errors as in :class:`fastclr.DCLLoss`."""
        loss: Tensor = self.loss(out0, out1)
        if self.weight_fn is None:
            return loss
        first, second = unit_rows(out0.to(loss.dtype)), unit_rows(out1.to(loss.dtype))
        positive = (first * second).sum(1) / self.loss.temperature
        weights = self.weight_fn(first, second), self.weight_fn(second, first)
        return (loss + torch.cat([(1.0 - weight) * positive for weight in weights])).mean()


class DCLWLoss(nn.Module):
    """``lightly.loss.DCLWLoss``; over several ranks the weights are those of the whole batch."""

    def __init__(self, temperature: float = 0.1, sigma: float = 0.5, gather_distributed: bool = False) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau.
            sigma: of the weights.
            gather_distributed: compare the rows of all ranks.

        Raises:
            TypeError, ValueError: as :class:`fastclr.DCLLoss`.
        """
        super().__init__()
        self.loss = _DCLLoss(temperature, gather_distributed, weighting="mises_fisher", sigma=sigma)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``; errors as in :class:`fastclr.DCLLoss`."""
        loss: Tensor = self.loss(out0, out1)
        return loss
