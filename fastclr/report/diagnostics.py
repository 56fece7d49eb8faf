"""How features are spread: whether they have collapsed, and how two views agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def spectrum(features: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of features ``[N, F]``, largest first; float64 ``[F]``."""
    centred = features.double() - features.double().mean(dim=0)
    values: Tensor = torch.linalg.eigvalsh(centred.T @ centred / len(features))
    return values.clamp_min(0).flip(0)


def effective_rank(features: Tensor) -> float:
    """Return exp(-sum_k p_k ln p_k) with the shares p of the singular values of features ``[N, F]``.

    1 if all features are parallel, at most min(N, F), 0 if all are zero.

    Source: Garrido et al., "RankMe", ICML 2023.
    """
    singular = torch.linalg.svdvals(features.double())
    singular = singular[singular > 1e-6 * singular.max()]
    if len(singular) == 0:
        return 0.0
    share = singular / singular.sum()
    return math.exp(-float((share * share.log()).sum()))


def alignment(z0: Tensor, z1: Tensor) -> float:
    """Return the mean of |z0_i - z1_i|^2 over pairs of rows of unit length ``[N, F]``: from 0, equal, to 4.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", ICML 2020.
    """
    distance = F.normalize(z0.double(), dim=1) - F.normalize(z1.double(), dim=1)
    return float(distance.square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """Return ln(mean over i < j of exp(-2 |z_i - z_j|^2)) for rows of unit length ``[N, F]``; 0 if all are equal.

    Source: as for `alignment`.
    """
    squared = F.pdist(F.normalize(z.double(), dim=1)).square()
    return float((-2 * squared).logsumexp(dim=0)) - math.log(len(squared))
