"""The memory bank against lightly's: same losses, gradients and contents, step after step."""

from __future__ import annotations

import pytest
import torch
from lightly.loss import NTXentLoss as LightlyLoss
from loss_cases import make_views

from fastclr import NTXentLoss
from fastclr.losses import tiles


def seeded(kind: type, *args: object, **kwargs: object) -> torch.nn.Module:
    torch.manual_seed(3)
    return kind(*args, **kwargs)


def contents(loss: torch.nn.Module) -> torch.Tensor:
    return loss.memory_bank.bank


@pytest.mark.parametrize("pairs", [1, 7, 8, 16, 30])
@pytest.mark.parametrize("temperature", [0.07, 0.5, -0.5])
def test_equals_lightly(pairs: int, temperature: float) -> None:
    ours = seeded(NTXentLoss, temperature, memory_bank_size=(24, 6))
    theirs = seeded(LightlyLoss, temperature, memory_bank_size=(24, 6))
    assert torch.equal(contents(ours), contents(theirs))
    for step in range(8):
        views = [z.requires_grad_() for z in make_views("far", pairs, 6, seed=step)]
        mine, other = ours(*views), theirs(*views)
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        for ours_grad, theirs_grad in zip(
            torch.autograd.grad(mine, views), torch.autograd.grad(other, views), strict=True
        ):
            torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(contents(ours), contents(theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frozen", ["detached", "no_grad"])
def test_bank_rests_without_gradient(frozen: str) -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    before = contents(loss).clone()
    z0, z1 = make_views("random", 3, 4)
    with torch.set_grad_enabled(frozen == "detached"):
        loss(z0.requires_grad_(frozen == "no_grad"), z1.requires_grad_())
    assert torch.equal(contents(loss), before)
    loss(z0.requires_grad_(), z1.detach())
    torch.testing.assert_close(contents(loss)[:3], torch.nn.functional.normalize(z1.detach(), dim=1))


@pytest.mark.parametrize("temperature", [0.003, 0.2])
def test_gradcheck(temperature: float) -> None:
    loss = NTXentLoss(temperature, memory_bank_size=(9, 4), learnable_temperature=True, reduction="none").double()
    z0, z1 = (z.requires_grad_() for z in make_views("far", 3, 4, torch.float64))
    bank = contents(loss).clone()

    def frozen_bank(*leaves: torch.Tensor) -> torch.Tensor:
        contents(loss).copy_(bank)
        loss.memory_bank.position = 0
        return loss(*leaves[:2])

    assert torch.autograd.gradcheck(
        frozen_bank, (z0, z1, loss.log_temperature), eps=1e-7, atol=1e-4, rtol=1e-3, nondet_tol=0.0
    )


def test_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [z.requires_grad_() for z in make_views("far", 37, 5)]
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 4)
    ours, theirs = (seeded(kind, 0.1, memory_bank_size=(101, 5))(*views) for kind in (NTXentLoss, LightlyLoss))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for mine, other in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_half_precision_and_reductions() -> None:
    z0, z1 = make_views("far", 6, 4)
    exact = seeded(NTXentLoss, 0.2, memory_bank_size=(16, 4), reduction="none")(z0, z1)
    half = seeded(NTXentLoss, 0.2, memory_bank_size=(16, 4))(z0.bfloat16(), z1.bfloat16())
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact.mean()), rel=1e-2)
    total = seeded(NTXentLoss, 0.2, memory_bank_size=(16, 4), reduction="sum")(z0, z1)
    torch.testing.assert_close(total, exact.sum())


def test_not_in_the_state_dict_and_width_checked() -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    assert loss.state_dict() == {}
    assert "size=8, dim=4" in repr(loss)
    with pytest.raises(ValueError, match="length 4, got 5"):
        loss(torch.randn(3, 5), torch.randn(3, 5))
    assert NTXentLoss(memory_bank_size=(0, 4)).memory_bank is None


def test_second_derivative_is_refused() -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("random", 3, 4))
    (grad,) = torch.autograd.grad(NTXentLoss(memory_bank_size=(8, 4))(z0, z1), z0, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()
