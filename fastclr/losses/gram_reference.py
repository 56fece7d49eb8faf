"""The specification of the Gram losses: Barlow Twins and VICReg in plain PyTorch, differentiable any number of times.

``barlow_twins(..., impl="reference")`` and ``vicreg(..., impl="reference")`` call it; no fast path does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastclr.losses.tiles import compute_dtype

BARLOW_EPS = 1e-5


def barlow_twins_terms(z0: Tensor, z1: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of Barlow Twins, ``sum_i (1 - C_ii)^2`` and ``sum_{i != j} C_ij^2``.

    ``C = A^T B / N``, A and B being z0 and z1 with columns of mean 0 and variance 1 (biased, eps 1e-5 under the root).

    Args:
        z0: ``[N, D]``, first view, N >= 2. float64 stays float64, everything else is computed in float32.
        z1: ``[N, D]``, second view.

    Returns:
        invariance and redundancy, 0-dim.

    Source: Zbontar et al., Barlow Twins, 2021, algorithm 1.
    """
    first, second = (standardised(z.to(compute_dtype(z.dtype))) for z in (z0, z1))
    correlation = first.T @ second / len(z0)
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum(), (correlation - diagonal.diag()).square().sum()


def standardised(z: Tensor) -> Tensor:
    """Columns of mean 0 and (almost) variance 1: ``(z - mean) / sqrt(var + 1e-5)`` with the biased variance."""
    centred = z - z.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + BARLOW_EPS).sqrt()


def vicreg_terms(z0: Tensor, z1: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms of VICReg before they are weighted.

    ``invariance = mean (z0 - z1)^2`` over all elements, ``variance = 1/2 sum_views mean_d max(0, 1 - sqrt(var_d +
    eps))``, ``covariance = 1/D sum_views sum_{i != j} Cov_ij^2``; var and Cov divide by N - 1.

    Args:
        z0: ``[N, D]``, first view, N >= 2. float64 stays float64, everything else is computed in float32.
        z1: ``[N, D]``, second view.
        eps: added to the variance under the root.

    Returns:
        invariance, variance and covariance, 0-dim.

    Source: Bardes et al., VICReg, 2022, equations 1 to 6, with the halved variance term of its published code.
    """
    rows, dim = z0.shape
    wide = compute_dtype(z0.dtype)
    first, second = z0.to(wide), z1.to(wide)
    invariance = (first - second).square().mean()
    variance = covariance = torch.zeros((), dtype=wide, device=z0.device)
    for z in (first, second):
        centred = z - z.mean(dim=0)
        matrix = centred.T @ centred / (rows - 1)
        variance = variance + torch.relu(1 - (matrix.diagonal() + eps).sqrt()).mean() / 2
        covariance = covariance + (matrix - matrix.diagonal().diag()).square().sum() / dim
    return invariance, variance, covariance
