"""nt_xent and NTXentLoss on the CPU against the float64 specification, lightly, and a plain implementation."""

from __future__ import annotations

import pytest
import torch
from lightly.loss import NTXentLoss as LightlyLoss
from loss_cases import KINDS, TEMPERATURES, make_views, plain_nt_xent, relative_error
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import InfoNCELoss, NTXentStats
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent
from fastclr.losses.contrast_reference import nt_xent_stats
from fastclr.losses.inputs import IMPLS

EPS = torch.finfo(torch.float32).eps


def rows_and_gradients(loss, z0: Tensor, z1: Tensor, temperature: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row losses, and the gradients of a weighted sum of them."""
    leaves = [leaf.clone().requires_grad_() for leaf in (z0, z1, temperature)]
    rows = loss(*leaves, **options)
    weight = torch.linspace(0.5, 1.5, len(rows)).to(rows.dtype)
    grads = torch.autograd.grad(rows, leaves, weight)
    return rows.detach(), torch.cat(grads[:2]), grads[2]


def double(loss, z0: Tensor, z1: Tensor, temperature: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    return rows_and_gradients(loss, z0.double(), z1.double(), temperature.double(), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_less_accurate_than_plain(kind: str, dtype: torch.dtype) -> None:
    z0, z1 = make_views(kind, 33, 17, dtype)
    for value in TEMPERATURES:
        temperature = torch.tensor(value)
        truth = double(reference_nt_xent, z0, z1, temperature, reduction="none")
        ours = rows_and_gradients(nt_xent, z0, z1, temperature, reduction="none")
        plain = rows_and_gradients(plain_nt_xent, z0, z1, temperature.to(dtype))
        # one rounding of a similarity: the accuracy of <z_i, z_j> / tau in float32
        known = 2 * EPS * max(1.0, 1 / value)
        for mine, other, exact in zip(ours[:2], plain[:2], truth[:2], strict=True):
            assert torch.isfinite(mine).all()
            if torch.isfinite(exact.to(mine.dtype)).all() and exact.norm() > 1e-30:
                error = relative_error(other, exact)
                assert relative_error(mine, exact) <= known + (error if error == error else 0.0), value
        # the terms of dL/dtau are up to 1 / tau^2 per row and cancel
        error = abs(float(plain[2].nan_to_num()) - float(truth[2]))
        known = EPS * (abs(float(truth[2])) + len(truth[0]) * (1 / value**2 + 1 / value))
        assert abs(float(ours[2]) - float(truth[2])) <= error + known, value


def test_bf16_gradient_error_is_a_quarter_of_plain() -> None:
    for kind, value in (("random", 0.5), ("random", 0.1), ("close", 0.1), ("close", 0.5)):
        z0, z1 = make_views(kind, 256, 64, torch.bfloat16)
        temperature = torch.tensor(value)
        truth = double(reference_nt_xent, z0, z1, temperature, reduction="none")
        ours = rows_and_gradients(nt_xent, z0, z1, temperature, reduction="none")
        plain = rows_and_gradients(plain_nt_xent, z0, z1, temperature.bfloat16())
        assert relative_error(ours[1], truth[1]) <= relative_error(plain[1], truth[1]) / 4


@pytest.mark.parametrize(("pairs", "dim"), [(1, 1), (1, 3), (2, 1), (3, 2), (255, 3), (256, 8), (257, 128), (700, 5)])
@pytest.mark.parametrize("temperature", [0.002, 0.1, -0.3, 2.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_odd_sizes_float64(pairs: int, dim: int, temperature: float, normalize: bool) -> None:
    views = make_views("random", pairs, dim, torch.float64, seed=1)
    tau = torch.tensor(temperature, dtype=torch.float64)
    truth = double(reference_nt_xent, *views, tau, reduction="none", normalize=normalize)
    ours = rows_and_gradients(nt_xent, *views, tau, reduction="none", normalize=normalize)
    longest = 1.0 if normalize else float(torch.cat(views).norm(dim=1).max())
    # rounding error of the largest similarity, propagated to the loss, dL/dz and dL/dtau
    known = 20 * torch.finfo(torch.float64).eps * (1 + longest**2 / abs(temperature))
    scales = (1.0, longest / abs(temperature), 2 * pairs * longest**2 / temperature**2)
    for mine, exact, scale in zip(ours, truth, scales, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-10, atol=known * scale)


@pytest.mark.slow
def test_twenty_thousand_rows_in_float32() -> None:
    z0, z1 = make_views("random", 9973, 8)
    leaves = [z.requires_grad_() for z in (z0, z1)]
    loss = nt_xent(*leaves, 0.1)
    grads = torch.autograd.grad(loss, leaves)
    # the same sums over a few rows, in float64
    rows = torch.nn.functional.normalize(torch.cat([z0, z1]).detach().double(), dim=1)
    some = torch.tensor([0, 5000, 9972, 9973, 19945])
    partner = (some + 9973) % 19946
    log_sums = torch.cat([_log_sum(rows, block) for block in torch.arange(19946).split(2000)])
    exact = log_sums - (rows * rows.roll(9973, 0)).sum(1) / 0.1
    assert abs(loss.item() - float(exact.mean())) <= 1e-6 * float(exact.mean())
    similar = rows[some] @ rows.T / 0.1
    weight = (similar - log_sums[some, None]).exp() + (similar - log_sums).exp()
    weight[torch.arange(5), some] = 0
    weight[torch.arange(5), partner] -= 2
    pull = weight @ rows / (0.1 * 19946)
    unit = rows[some]
    expected = (pull - (pull * unit).sum(1, keepdim=True) * unit) / torch.cat([z0, z1])[some].norm(dim=1, keepdim=True)
    assert relative_error(torch.cat(grads)[some], expected) < 1e-5


def _log_sum(rows: Tensor, block: Tensor) -> Tensor:
    similar = rows[block] @ rows.T / 0.1
    similar[torch.arange(len(block)), block] = -torch.inf
    return similar.logsumexp(dim=1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("temperature", [0.003, 0.5])
def test_gradcheck(reduction: str, temperature: float) -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("far", 3, 4, torch.float64))
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *leaves: nt_xent(*leaves, reduction=reduction), (z0, z1, tau), eps=1e-7, atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("arguments", [{}, {"temperature": 0.1}, {"temperature": -0.5}], ids=str)
@pytest.mark.parametrize("pairs", [1, 2, 64])
def test_module_equals_lightly(pairs: int, arguments: dict[str, float]) -> None:
    views = [z.requires_grad_() for z in make_views("far", pairs, 32)]
    ours, theirs = NTXentLoss(**arguments)(*views), LightlyLoss(**arguments)(*views)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for mine, other in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True):
        assert float((mine - other).norm()) <= 2e-6 * float(other.norm()) + 1e-12


def test_module_has_no_state() -> None:
    assert NTXentLoss().state_dict() == {}
    assert list(NTXentLoss().parameters()) == []


def test_learnable_temperature() -> None:
    loss = NTXentLoss(0.2, learnable_temperature=True)
    z0, z1 = make_views("far", 12, 5)
    loss(z0, z1).backward()
    log_tau = torch.tensor(0.2).log().double().requires_grad_()
    reference_nt_xent(z0.double(), z1.double(), log_tau.exp()).backward()
    torch.testing.assert_close(loss.log_temperature.grad.double(), log_tau.grad, rtol=1e-5, atol=1e-8)
    assert list(loss.state_dict()) == ["log_temperature"]
    assert loss.temperature.item() == pytest.approx(0.2)


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
@pytest.mark.parametrize("temperature", [0.02, 0.2])
@pytest.mark.parametrize("pairs", [1, 2, 30, 400])
def test_stats(pairs: int, temperature: float, impl: str) -> None:
    z0, z1 = make_views("far", pairs, 6)
    loss, stats = nt_xent(z0.requires_grad_(), z1, temperature, impl=impl, return_stats=True)
    assert isinstance(stats, NTXentStats) and not stats.accuracy.requires_grad and not stats.entropy.requires_grad
    correct, entropy = nt_xent_stats(z0.double(), z1.double(), temperature)
    torch.testing.assert_close(stats.accuracy.double(), correct)
    torch.testing.assert_close(stats.entropy.double(), entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, nt_xent(z0, z1, temperature))
    loss.backward()
    assert torch.isfinite(z0.grad).all()


def test_only_one_input_needs_a_gradient() -> None:
    z0, z1 = make_views("random", 6, 4)
    tau = torch.tensor(0.3, requires_grad=True)
    nt_xent(z0, z1, tau).backward()
    expected = torch.tensor(0.3, requires_grad=True)
    reference_nt_xent(z0, z1, expected).backward()
    torch.testing.assert_close(tau.grad, expected.grad)


def test_strides_do_not_matter() -> None:
    z0, z1 = make_views("random", 10, 6)
    wide, tall = torch.randn(10, 12), torch.randn(6, 10)
    wide[:, ::2], tall[:] = z0, z1.T
    leaves = wide[:, ::2].requires_grad_(), tall.T.requires_grad_()
    assert not any(leaf.is_contiguous() for leaf in leaves)
    plain = z0.requires_grad_(), z1.requires_grad_()
    ours, theirs = nt_xent(*leaves), nt_xent(*plain)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, plain), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_gradient_accumulation_and_repeated_backward() -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("random", 6, 4))
    loss = nt_xent(z0, z1)
    loss.backward(retain_graph=True)
    once = z0.grad.clone()
    loss.backward()
    torch.testing.assert_close(z0.grad, 2 * once)


def test_a_kernel_that_never_ran_must_be_asked_for() -> None:
    """Nothing chooses the warp-specialised backward, and no other loss has it."""
    z0, z1 = make_views("random", 8, 16, torch.float16)
    assert "gluon" not in IMPLS
    with pytest.raises(ValueError, match="impl='gluon' needs CUDA tensors on an H100 or H200, got cpu"):
        nt_xent(z0, z1, 0.5, impl="gluon")
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        NTXentLoss(0.5, impl="gluon")(z0, z1)
    with pytest.raises(ValueError, match=r"impl must be one of .*'reference', got 'gluon'"):
        InfoNCELoss(0.5, impl="gluon")  # type: ignore[arg-type]
