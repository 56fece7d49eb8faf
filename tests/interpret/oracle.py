"""Dense NT-Xent in float64 with autograd, and the kernels called rank by rank as the operators do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastclr.kernels import ntxent_bwd, ntxent_fwd, ntxent_prologue
from fastclr.kernels.tile_table import Tile

# small enough that a few dozen rows are several tiles, in which rows wider than 32 take several chunks
TILE = Tile(block_m=16, block_n=32, block_d=32, num_warps=4, block_out=64)
TALL = Tile(block_m=32, block_n=16, block_d=64, num_warps=4, block_out=64)

Views = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Numbers:
    """Results of one rank, and dL/dtau, which sums over all ranks."""

    loss: torch.Tensor
    lse: torch.Tensor
    correct: torch.Tensor
    entropy: torch.Tensor
    dz0: torch.Tensor
    dz1: torch.Tensor
    dtau: torch.Tensor


def make_views(ranks: int, n: int, width: int, dtype: torch.dtype = torch.float32, noise: float = 0.5) -> Views:
    """Pairs of related rows of various lengths, one pair of tensors per rank."""
    generator = torch.Generator().manual_seed(100 * n + width)
    views = []
    for _ in range(ranks):
        base = torch.randn(n, width, generator=generator)
        first, second = (base + noise * torch.randn(n, width, generator=generator) for _ in range(2))
        views.append(((first * torch.rand(n, 1, generator=generator).add(0.5)).to(dtype), second.to(dtype)))
    return views


def expected(
    views: Views, tau: float, weight: torch.Tensor | None = None, scale: float = 1.0, normalize: bool = True
) -> list[Numbers]:
    """The definition: the cross-entropy of each row of each rank over all rows but itself."""
    leaves = [tuple(u.double().requires_grad_() for u in pair) for pair in views]
    n = leaves[0][0].shape[0]
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    u = torch.cat([torch.cat(pair) for pair in leaves])
    z = u / u.norm(dim=1, keepdim=True).clamp_min(1e-12) if normalize else u
    logits = z @ z.T / temperature
    rows = torch.arange(len(u))
    view = (rows // n) % 2
    partner = rows + torch.where(view == 0, n, -n)
    lse = logits.masked_fill(torch.eye(len(u), dtype=torch.bool), -torch.inf).logsumexp(dim=1)
    loss = lse - logits[rows, partner]
    weights = torch.ones(len(u), dtype=torch.float64) if weight is None else weight.double()
    (scale * (weights * loss).sum()).backward()

    candidates = logits.detach().masked_fill(view[:, None] == view[None, :], -torch.inf)
    correct = (candidates.max(dim=1).values <= candidates[rows, partner]).double()
    entropy = torch.special.entr(candidates.softmax(dim=1)).sum(dim=1)
    per_rank = zip(*(t.detach().split(2 * n) for t in (loss, lse, correct, entropy)), strict=True)
    return [
        Numbers(*parts, pair[0].grad, pair[1].grad, temperature.grad)
        for parts, pair in zip(per_rank, leaves, strict=True)
    ]


def computed(
    views: Views,
    tau: float,
    weight: torch.Tensor | None = None,
    scale: float = 1.0,
    normalize: bool = True,
    *,
    shift: str = "fixed",
    precision: str = "ieee",
    tile: Tile = TILE,
    splits: int | None = None,
    **options: Any,
) -> list[Numbers]:
    """The three launchers, rank by rank; tensors that ranks would exchange are concatenated."""
    temperature = torch.tensor(tau)
    options = {"deterministic": False, "stats": False, "triangular": True, **options}
    m = 2 * views[0][0].shape[0]
    prologue = [ntxent_prologue(*pair, normalize, precision) for pair in views]
    columns = torch.cat([z for z, _, _ in prologue])
    fwd = [
        ntxent_fwd(z, columns, positive, temperature, r * m, shift, precision, tile=tile, splits=splits, **options)
        for r, (z, _, positive) in enumerate(prologue)
    ]
    lse = torch.cat([out[1] for out in fwd])
    bwd = [
        ntxent_bwd(
            *pair, z, columns, inv_norm, positive, out[0], lse, weight, torch.tensor(scale), temperature, r * m,
            normalize, shift, precision, tile=tile, splits=splits,
        )
        for r, (pair, (z, inv_norm, positive), out) in enumerate(zip(views, prologue, fwd, strict=True))
    ]  # fmt: skip
    dtau = -sum(dot.double().sum() for _, _, dot in bwd) / (2 * tau)
    return [Numbers(*out, dz0, dz1, dtau) for out, (dz0, dz1, _) in zip(fwd, bwd, strict=True)]


def check(views: Views, tau: float, tolerance: float, **options: Any) -> None:
    """Compare all results of all ranks: losses to ``tolerance`` of the largest logit, gradients to three times that.

    A softmax turns an error in a logit into the same relative error in a weight, so small temperatures need more slack.
    """
    problem = {key: options[key] for key in ("weight", "scale", "normalize") if key in options}
    want, got = expected(views, tau, **problem), computed(views, tau, **options)
    longest = (
        1.0 if options.get("normalize", True) else max(float(u.double().norm(dim=1).max()) for v in views for u in v)
    )
    logit = max(1.0, longest**2 / abs(tau))
    gradient_norm = torch.cat([g for w in want for g in (w.dz0, w.dz1)]).norm()
    for w, g in zip(want, got, strict=True):
        torch.testing.assert_close(g.loss.double(), w.loss, atol=tolerance * logit, rtol=tolerance)
        torch.testing.assert_close(g.lse.double(), w.lse, atol=tolerance * logit, rtol=tolerance)
        for name in ("dz0", "dz1"):
            error = (getattr(g, name).double() - getattr(w, name)).norm()
            assert error <= 3 * tolerance * max(1.0, 0.1 * logit) * gradient_norm, (name, float(error / gradient_norm))
        slack = tolerance * logit * abs(options.get("scale", 1.0)) * len(w.loss) * len(want)
        torch.testing.assert_close(g.dtau, w.dtau, atol=slack / abs(tau), rtol=tolerance)
        if options.get("stats"):
            torch.testing.assert_close(g.correct.double(), w.correct)
            torch.testing.assert_close(g.entropy.double(), w.entropy, atol=tolerance * logit, rtol=tolerance)
