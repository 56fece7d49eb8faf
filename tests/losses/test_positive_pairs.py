"""NT-Xent over arbitrary labels and the log-sum-exp of its negatives, against dense float64."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import KINDS, make_views, relative_error
from torch import Tensor
from torch.nn.functional import normalize

from fastclr.losses import lse_blocks
from fastclr.losses.lse_op import lse
from fastclr.losses.positive_pairs import NEGATIVES, nt_xent_of_pairs, pair_counts


def dense_lse(q: Tensor, k: Tensor, scale: Tensor, ids_q: Tensor, ids_k: Tensor) -> Tensor:
    return (scale * q @ k.T).masked_fill(ids_q[:, None] == ids_k, -math.inf).logsumexp(1)


def negatives_lse(q: Tensor, k: Tensor, scale: Tensor, ids_q: Tensor, ids_k: Tensor) -> Tensor:
    return lse(q, k, scale, NEGATIVES, exclude="equal", ids=(ids_q, ids_k))[0]


def dense_loss(rows: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Mean over positive pairs of log(1 + e^(nlse - s))."""
    z = normalize(rows, dim=1)
    s = z @ z.T / tau
    same = labels[:, None] == labels
    nlse = s.masked_fill(same, -math.inf).logsumexp(1, keepdim=True)
    return torch.logaddexp(nlse - s, torch.zeros_like(s))[same & ~torch.eye(len(s), dtype=torch.bool)].mean()


@pytest.mark.parametrize("block", [16, 1024])
def test_log_sum_exp_of_negatives(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lse_blocks, "block_size", lambda *_: block)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 6, generator=generator, dtype=torch.float64).requires_grad_() for n in (41, 57))
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    ids = torch.arange(41) % 5, torch.arange(57) % 7
    found = negatives_lse(q, k, scale, *ids)
    exact = dense_lse(q, k, scale, *ids)
    weight = torch.linspace(-1, 2, 41, dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=0)
    for mine, other in zip(
        *(torch.autograd.grad(value, (q, k, scale), weight) for value in (found, exact)), strict=True
    ):
        assert relative_error(mine, other) <= 1e-12
    nothing = negatives_lse(q, k, scale, torch.zeros(41), torch.zeros(57))
    assert (nothing == -math.inf).all()
    with pytest.raises(RuntimeError, match="differentiable once"):
        (first,) = torch.autograd.grad(negatives_lse(q, k, scale, *ids).sum(), q, create_graph=True)
        first.sum().backward()


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_data_in_float32(kind: str, tau: float) -> None:
    rows = torch.cat(make_views(kind, 20, 12))
    labels = torch.arange(40) % 6
    leaves = [rows.clone().requires_grad_(), rows.double().requires_grad_()]
    _, inverse = labels.unique(return_inverse=True)
    pairs, _ = pair_counts(inverse, inverse, True)
    found = nt_xent_of_pairs(leaves[0], leaves[0], labels, labels, tau, True, pairs)
    exact = dense_loss(leaves[1], labels, tau)
    limit = max(2e-6, 8 * torch.finfo(torch.float32).eps / tau)
    assert abs(float(found.detach()) - float(exact.detach())) <= limit * max(1.0, float(exact.detach()))
    (mine,), (true,) = torch.autograd.grad(found, leaves[0]), torch.autograd.grad(exact, leaves[1])
    # of collapsed rows the gradient is what rounding leaves after its projection
    floor = 16 * torch.finfo(torch.float32).eps / tau / rows.double().norm(dim=1).median()
    assert mine.isfinite().all() and (mine - true).norm() <= limit * true.norm() + floor


def test_pairs_are_counted_without_a_matrix() -> None:
    labels, others = torch.tensor([3, 3, -1, 8]), torch.tensor([3, -1, -1, 5, 3])
    same = labels[:, None] == others
    assert pair_counts(labels, others, False) == (int(same.sum()), int((~same).sum()))
    assert pair_counts(labels, labels, True) == (2, 10)
