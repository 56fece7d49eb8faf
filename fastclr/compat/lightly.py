"""Losses with the call conventions of lightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn

from fastclr.losses import DCLLoss as _DCLLoss
from fastclr.losses import MemoryBank
from fastclr.losses import NTXentLoss as _NTXentLoss
from fastclr.losses.gram import barlow_twins, vicreg
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
        # an empty batch of a rank is refused below, on all ranks
        if self.keys and self.memory_bank is None and (len(out0) or not self.gather_distributed):
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


class BarlowTwinsLoss(nn.Module):
    """``lightly.loss.BarlowTwinsLoss``, which gathers only if torch.distributed is initialised.

    Over several ranks the original standardises by the local rows, so that its loss is not that of the whole batch
    (with 6 rows a rank the gradients' cosine is 0.73); here the statistics are those of all ranks.
    """

    def __init__(
        self, lambda_param: float = 5e-3, gather_distributed: bool = False, *, local_statistics: bool = False
    ) -> None:
        """Store the options.

        Args:
            lambda_param: weight of the redundancy.
            gather_distributed: the rows of all ranks form the batch.
            local_statistics: standardise by the local rows, as the original does.

        Raises:
            ValueError: gather_distributed, and PyTorch has no torch.distributed.
        """
        super().__init__()
        _check_gathering(gather_distributed)
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed
        self.local_statistics = local_statistics

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``, 0-dim.

        Raises:
            TypeError, ValueError: as :class:`fastclr.BarlowTwinsLoss`.
        """
        gathers = self.gather_distributed and distributed.is_initialized()
        group = distributed.group.WORLD if gathers else None
        return barlow_twins(z_a, z_b, self.lambda_param, group=group, local_statistics=self.local_statistics)[0]


class VICRegLoss(nn.Module):
    """``lightly.loss.VICRegLoss``, for ``[N, D]`` and, as there, ``[N, ..., D]``: the mean over the places between."""

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 0.0001,
    ) -> None:
        """Store the options.

        Args:
            lambda_param, mu_param, nu_param: weights of invariance, variance and covariance.
            gather_distributed: the rows of all ranks form the batch, if torch.distributed is initialised.
            eps: added to the variance under the root.

        Raises:
            ValueError: gather_distributed, and PyTorch has no torch.distributed.
        """
        super().__init__()
        _check_gathering(gather_distributed)
        self.lambda_param = lambda_param
        self.mu_param = mu_param
        self.nu_param = nu_param
        self.gather_distributed = gather_distributed
        self.eps = eps

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Loss of two views ``[N, ..., D]``, 0-dim.

        Raises:
            TypeError, ValueError: as :class:`fastclr.VICRegLoss`; the original has assertions.
        """
        gathers = self.gather_distributed and distributed.is_initialized()
        group = distributed.group.WORLD if gathers else None

        def loss_of(first: Tensor, second: Tensor) -> Tensor:
            return vicreg(first, second, self.lambda_param, self.mu_param, self.nu_param, self.eps, group=group)[0]

        if z_a.dim() <= 2 or z_a.shape != z_b.shape:
            return loss_of(z_a, z_b)
        places = zip(*(z.flatten(1, -2).unbind(1) for z in (z_a, z_b)), strict=True)
        return torch.stack([loss_of(first, second) for first, second in places]).mean()


def _check_gathering(gather_distributed: bool) -> None:
    if gather_distributed and not distributed.is_available():
        raise ValueError("gather_distributed needs a PyTorch built with torch.distributed")
