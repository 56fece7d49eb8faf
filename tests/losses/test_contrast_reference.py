"""The specification against the definition, two other libraries, and numerical derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss as LightlyLoss
from loss_cases import TEMPERATURES, make_views, relative_error
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningLoss
from pytorch_metric_learning.losses import SelfSupervisedLoss

from fastclr.losses.contrast_reference import nt_xent, nt_xent_stats


def einsum_nt_xent(z0: torch.Tensor, z1: torch.Tensor, temperature: float) -> torch.Tensor:
    rows = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)
    similar = torch.exp(torch.einsum("id,jd->ij", rows, rows) / temperature).fill_diagonal_(0)
    return torch.log(similar.sum(1) / torch.diagonal(similar.roll(len(z0), 1))).mean()


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0, 10.0, -0.5])
@pytest.mark.parametrize(("pairs", "dim"), [(2, 1), (5, 3), (33, 16), (64, 128)])
def test_equals_einsum(pairs: int, dim: int, temperature: float) -> None:
    z0, z1 = make_views("random", pairs, dim, torch.float64)
    torch.testing.assert_close(
        nt_xent(z0, z1, temperature), einsum_nt_xent(z0, z1, temperature), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("pairs", [1, 2, 17, 64])
@pytest.mark.parametrize("peer", ["lightly", "pytorch-metric-learning"])
def test_equals_peers(peer: str, pairs: int, temperature: float) -> None:
    if peer == "lightly":
        loss = LightlyLoss(temperature=temperature)
    elif pairs == 1:
        pytest.skip("pytorch-metric-learning has no loss without negatives")
    else:
        loss = SelfSupervisedLoss(MetricLearningLoss(temperature=temperature))
    views = [z.requires_grad_() for z in make_views("far", pairs, 32)]
    theirs, ours = loss(*views), nt_xent(*views, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for mine, other in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True):
        assert float((mine - other).norm()) <= 1e-6 * float(other.norm()) + 1e-12


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives(reduction: str, normalize: bool) -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("random", 3, 4, torch.float64))
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def loss(z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        return nt_xent(z0, z1, temperature, normalize=normalize, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (z0, z1, temperature))
    assert torch.autograd.gradgradcheck(loss, (z0, z1, temperature))


def test_reductions_agree() -> None:
    z0, z1 = make_views("random", 7, 5, torch.float64)
    rows = nt_xent(z0, z1, reduction="none")
    assert rows.shape == (14,)
    torch.testing.assert_close(rows.sum(), nt_xent(z0, z1, reduction="sum"))
    torch.testing.assert_close(rows.mean(), nt_xent(z0, z1))
    with pytest.raises(ValueError, match="reduction must be"):
        nt_xent(z0, z1, reduction="median")


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_extreme_lengths_are_directions(temperature: float) -> None:
    z0, z1 = make_views("random", 9, 6, torch.float64)
    truth = nt_xent(z0, z1, temperature)
    for scale in (1e-9, 1e200, 1e305):
        torch.testing.assert_close(nt_xent(z0 * scale, z1 * scale, temperature), truth, rtol=1e-10, atol=1e-12)


def test_zero_row_has_the_value_of_normalize_and_no_gradient() -> None:
    z0, z1 = make_views("random", 4, 3, torch.float64)
    z0[1] = 0
    z1[2] = 1e-14
    z0.requires_grad_(), z1.requires_grad_()
    loss = nt_xent(z0, z1)
    torch.testing.assert_close(loss, einsum_nt_xent(z0, z1, 0.5))
    grad0, grad1 = torch.autograd.grad(loss, (z0, z1))
    assert not grad0[1].any() and not grad1[2].any()
    assert grad0[0].any() and torch.isfinite(grad0).all() and torch.isfinite(grad1).all()


def test_stats_equal_numpy() -> None:
    z0, z1 = make_views("far", 20, 8, torch.float64)
    correct, entropy = nt_xent_stats(z0, z1, 0.2)
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (z0, z1))
    expected_correct, expected_entropy = [], []
    for rows, others in ((a, b), (b, a)):
        for i, row in enumerate(rows):
            weights = np.exp(others @ row / 0.2)
            share = weights / weights.sum()
            expected_correct.append(float(share[i] >= share.max()))
            expected_entropy.append(-(share * np.log(share)).sum())
    assert 0 < np.mean(expected_correct) < 1
    np.testing.assert_array_equal(correct.numpy(), expected_correct)
    np.testing.assert_allclose(entropy.numpy(), expected_entropy, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    z0, z1 = make_views("random", 16, 8, dtype)
    loss = nt_xent(z0, z1, 0.1)
    assert loss.dtype == torch.float32
    assert relative_error(loss, nt_xent(z0.double(), z1.double(), 0.1)) < 1e-5
