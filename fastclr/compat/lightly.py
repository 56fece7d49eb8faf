"""Losses with the call conventions of lightly."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from fastclr.losses.gram import barlow_twins, vicreg


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
