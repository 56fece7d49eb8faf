"""Data for the tests of the loss, and the same loss written plainly in the dtype of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURES = (0.001, 0.005, 0.01, 0.05, 0.07, 0.1, 0.5, 1.0, 10.0)


def make_views(
    kind: str, pairs: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two views of a kind of data that has broken a contrastive loss before."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = randn(pairs, dim)
    noise = {"close": 0.03, "far": 10.0}.get(kind, 0.5)
    z0, z1 = base + noise * randn(pairs, dim), base + noise * randn(pairs, dim)
    if kind == "collapsed":
        z0 = z1 = base[:1].expand(pairs, dim)
    elif kind == "antipodal":
        z0, z1 = base, -base
    elif kind == "duplicated":
        z0 = z0[torch.arange(pairs) // 3]
    elif kind == "one_hot":
        z0 = z1 = functional.one_hot(torch.arange(pairs) % dim, dim).double()
    elif kind == "huge":
        z0, z1 = 1e4 * z0, 1e4 * z1
        if dtype != torch.float16:
            z0, z1 = 1e26 * z0, 1e26 * z1
    elif kind == "tiny":
        z0, z1 = 1e-3 * z0, 1e-3 * z1
        if dtype != torch.float16:
            z0, z1 = 1e-6 * z0, 1e-6 * z1
    elif kind == "uneven":
        z0 = z0 * torch.logspace(-3, 3, pairs, dtype=torch.float64)[:, None]
    return z0.to(dtype), z1.to(dtype)


KINDS = ("random", "close", "far", "collapsed", "antipodal", "duplicated", "one_hot", "huge", "tiny", "uneven")


def plain_nt_xent(z0: Tensor, z1: Tensor, temperature: float | Tensor, normalize: bool = True) -> Tensor:
    """NT-Xent per row as most people write it, all of it in the dtype of the inputs."""
    rows = torch.cat([z0, z1])
    rows = functional.normalize(rows, dim=1) if normalize else rows
    logits = rows @ rows.T / temperature
    logits = logits.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    labels = torch.arange(len(rows)).roll(len(z0))
    return functional.cross_entropy(logits, labels, reduction="none")


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Error as a fraction of the length of the truth."""
    truth = truth.double()
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-300))
