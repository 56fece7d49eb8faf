"""Label-free diagnostics of features: whether they have collapsed, and how well two views agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.device import exact

BLOCK = 2048  # rows at a time
ZERO = 1e-6  # relative to the largest singular value: anything smaller is float32 rounding


def _checked(name: str, features: Tensor, least: int) -> Tensor:
    """Return `features` where float64 can be computed from them; a ValueError unless they are finite floats ``[N, F]``.

    N must be at least `least`.
    """
    if features.dim() != 2 or len(features) < least or not features.is_floating_point():
        shape = f"{features.dtype} {tuple(features.shape)}"
        raise ValueError(f"{name} must be float [N, F] with N of at least {least}, got {shape}")
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name} must be finite, but some are NaN or infinite")
    return exact(features)


def spectrum(features: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of `features`, largest first: float64 ``[F]``, at least 0.

    C = 1/N sum_i (x_i - mean)(x_i - mean)^T. Eigenvalues near zero mean that features span fewer than F dimensions.

    Args:
        features: float ``[N, F]``, any device.

    Raises:
        ValueError: the shape or dtype is wrong, or a feature is not finite.

    Source: Jing et al., "Understanding dimensional collapse in contrastive self-supervised learning", ICLR 2022.
    """
    features = _checked("features", features, 1)
    sums = [rows.double().sum(dim=0) for rows in features.split(BLOCK)]
    return _eigenvalues(features, torch.stack(sums).sum(dim=0) / len(features))


def effective_rank(features: Tensor) -> float:
    """Return RankMe, the effective rank of `features`: 1 if all are parallel, at most min(N, F); 0 if all are zero.

    exp(-sum_k p_k ln p_k), p_k = s_k / sum_j s_j, with the singular values s of the uncentred matrix ``[N, F]``.

    Args:
        features: float ``[N, F]``, any device.

    Raises:
        ValueError: the shape or dtype is wrong, or a feature is not finite.

    Source: Garrido et al., "RankMe", ICML 2023, equation 1 (without its epsilon); Roy and Vetterli, EUSIPCO 2007.
    """
    features = _checked("features", features, 1)
    singular = _eigenvalues(features, None).sqrt()
    singular = singular[singular > ZERO * singular.max()]
    if len(singular) == 0:
        return 0.0
    share = singular / singular.sum()
    return math.exp(float(-(share * share.log()).sum()))


def alignment(z0: Tensor, z1: Tensor, *, power: float = 2.0) -> float:
    """Return the mean distance between two views of the same images: 0 if they coincide, at most 4 for power 2.

    1/N sum_i |z0_i - z1_i|^power, with rows scaled to unit length.

    Args:
        z0: float ``[N, F]``, first views.
        z1: float ``[N, F]``, second views.
        power: above 0.

    Raises:
        ValueError: shapes or dtypes are wrong, or a value is not finite.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", ICML 2020.
    """
    z0 = _checked("z0", z0, 1)
    z1 = _checked("z1", z1, 1)
    if z0.shape != z1.shape:
        raise ValueError(f"z0 and z1 must have the same shape, got {tuple(z0.shape)} and {tuple(z1.shape)}")
    if not 0 < power < float("inf"):
        raise ValueError(f"power must be a positive number, got {power}")
    distances = (F.normalize(z0.double(), dim=1) - F.normalize(z1.double(), dim=1)).norm(dim=1)
    return float((distances**power).mean())


def uniformity(z: Tensor, *, t: float = 2.0) -> float:
    """Return how evenly `z` covers the sphere: 0 if all rows coincide, about -4 at best for t = 2 in many dimensions.

    ln( mean over pairs i < j of exp(-t |z_i - z_j|^2) ), with rows scaled to unit length.

    Args:
        z: float ``[N, F]`` with N of at least 2; all pairs are computed, in blocks of rows.
        t: above 0.

    Raises:
        ValueError: the shape or dtype is wrong, or a value is not finite.

    Source: Wang and Isola, as in `alignment`.
    """
    z = _checked("z", z, 2)
    if not 0 < t < float("inf"):
        raise ValueError(f"t must be a positive number, got {t}")
    unit = F.normalize(z.double(), dim=1)
    sums = []
    for start in range(0, len(unit), BLOCK):
        rows = unit[start : start + BLOCK]
        for other in range(start, len(unit), BLOCK):
            squared = (2 - 2 * rows @ unit[other : other + BLOCK].T).clamp_min_(0)
            if other == start:
                i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=z.device)
                squared = squared[i, j]
            sums.append((-t * squared).flatten().logsumexp(dim=0))
    pairs = len(unit) * (len(unit) - 1) / 2
    return float(torch.stack(sums).logsumexp(dim=0)) - math.log(pairs)


def _eigenvalues(features: Tensor, mean: Tensor | None) -> Tensor:
    """Return the eigenvalues of 1/N X^T X, largest first, where X is the rows minus `mean`."""
    gram = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    for rows in features.split(BLOCK):
        centred = rows.double() if mean is None else rows.double() - mean
        gram += centred.T @ centred
    values: Tensor = torch.linalg.eigvalsh(gram / len(features))
    return values.clamp_min(0).flip(0)
