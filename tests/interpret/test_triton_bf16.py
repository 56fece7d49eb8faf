"""The kernels in bfloat16 against the dense float64 definition, in an interpreter with corrected bfloat16."""

from __future__ import annotations

import pytest
import torch
from bf16 import mend
from oracle import check, computed, expected, make_views
from test_triton_paths import PATHS

TOLERANCE = 2**-7


@pytest.fixture(autouse=True)
def true_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    mend(monkeypatch)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("n", "width"), [(1, 1), (19, 70), (80, 20)])
def test_ntxent(path: str, n: int, width: int) -> None:
    check(make_views(1, n, width, torch.bfloat16), 0.5, TOLERANCE, **PATHS[path])


@pytest.mark.parametrize("path", PATHS)
def test_float32_views_in_bf16_products(path: str) -> None:
    check(make_views(1, 19, 70), 0.5, TOLERANCE, precision="bf16", **PATHS[path])


def test_three_ranks_with_statistics() -> None:
    check(make_views(3, 11, 40, torch.bfloat16), 0.2, TOLERANCE, stats=True)


@pytest.mark.parametrize("tau", [0.001, -0.004])
@pytest.mark.parametrize("path", ["online", "runtime full split"])
def test_temperatures_beyond_the_fixed_shift(tau: float, path: str) -> None:
    check(make_views(1, 18, 16, torch.bfloat16, noise=3.0), tau, TOLERANCE, **PATHS[path])


def test_weights() -> None:
    weight = torch.rand(2 * 2 * 13, generator=torch.Generator().manual_seed(5)) * 2 - 1
    check(make_views(2, 13, 20, torch.bfloat16), 0.3, TOLERANCE, weight=weight, scale=0.5)


def plain_gradient(first: torch.Tensor, second: torch.Tensor, tau: float) -> torch.Tensor:
    """Autograd on the usual implementation of NT-Xent, entirely in the dtype of the views."""
    leaves = [view.clone().requires_grad_() for view in (first, second)]
    z = torch.nn.functional.normalize(torch.cat(leaves))
    own = torch.eye(len(z), dtype=torch.bool)
    partner = torch.arange(len(z)).roll(len(first))
    torch.nn.functional.cross_entropy((z @ z.T / tau).masked_fill(own, -torch.inf), partner, reduction="sum").backward()
    return torch.cat([leaf.grad for leaf in leaves]).double()


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("noise", [0.05, 0.5, 3.0])
def test_gradient_error_is_a_quarter_of_autograd_or_that_of_rounding_the_result(noise: float, tau: float) -> None:
    views = make_views(1, 256, 64, torch.bfloat16, noise)
    truth, ours = (torch.cat([part.dz0, part.dz1]).double() for (part,) in (expected(views, tau), computed(views, tau)))
    plain, nearest = plain_gradient(*views[0], tau), truth.bfloat16().double()
    assert (ours - truth).norm() <= max((plain - truth).norm() / 4, 1.2 * (nearest - truth).norm())
