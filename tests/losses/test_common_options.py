"""What every loss takes: temperatures of all kinds, the common options, and words at autograd's edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import make_views
from torch import Tensor

import fastclr
from fastclr import losses

ROWS = {"CLIPLoss": {}, "InfoNCELoss": {}, "DCLLoss": {}, "DebiasedNTXentLoss": {}, "MultipleNegativesLoss": {}}
TEMPERED = ("NTXentLoss", *ROWS, "NTLogisticLoss")
ALL = (*TEMPERED, "BLIPLoss", "SupConLoss", "SigLIPLoss", "MarginTripletLoss", "BarlowTwinsLoss", "VICRegLoss")


def views(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [view.requires_grad_() for view in make_views("random", 6, 5, dtype)]


def call(loss: Any, first: Tensor, second: Tensor) -> Tensor:
    """The loss of two views; SupCon takes them stacked."""
    if isinstance(loss, losses.BLIPLoss):
        momentum = second.detach().flip(1), first.detach().flip(0)
        found: Tensor = loss(first, second, *momentum, momentum[1].roll(1, 1), momentum[0].roll(1, 0))
        return found
    value: Tensor = (
        loss(torch.stack([first, second], 1)) if isinstance(loss, losses.SupConLoss) else loss(first, second)
    )
    return value


@pytest.mark.parametrize("name", TEMPERED)
def test_temperatures_of_all_kinds(name: str) -> None:
    kind, data = getattr(fastclr, name), views()
    exact = kind(0.25)(*data)
    for value in (np.float32(0.25), np.float64(0.25), torch.tensor(0.25), torch.nn.Parameter(torch.tensor(0.25))):
        loss = kind(0.7)
        assert torch.equal(kind(value)(*data), exact)
        loss.temperature = value
        assert torch.equal(loss(*data), exact)
    tau = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(kind(tau)(*data), tau)
    step = 1e-6
    slope = (kind(0.25 + step)(*data) - kind(0.25 - step)(*data)) / (2 * step)
    torch.testing.assert_close(found, slope.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TEMPERED)
def test_a_learnable_temperature_starts_again(name: str) -> None:
    loss, data = getattr(fastclr, name)(0.2, learnable_temperature=True), views()
    assert [key for key, _ in loss.named_parameters()] == ["log_temperature"]
    loss(*data).backward()
    assert loss.log_temperature.grad is not None
    with torch.no_grad():
        loss.log_temperature.fill_(3.0)
    loss.reset_parameters()
    assert float(loss.log_temperature.detach()) == pytest.approx(math.log(0.2))
    loss.temperature = 0.4
    assert float(loss.log_temperature.detach()) == pytest.approx(math.log(0.4))
    for value, error in ((-0.1, ValueError), (0.0, ValueError), (math.nan, ValueError), ("0.1", TypeError)):
        with pytest.raises(error, match="temperature"):
            loss.temperature = value
    assert float(loss.log_temperature.detach()) == pytest.approx(math.log(0.4))


@pytest.mark.parametrize("name", ALL)
def test_deterministic_and_precision(name: str) -> None:
    kind, data = getattr(fastclr, name), views(torch.float32)
    found = []
    for _ in range(2):
        loss = call(kind(deterministic=True, precision="ieee"), *data)
        found.append((loss, *torch.autograd.grad(loss, data)))
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))
    assert kind().deterministic is None
    with pytest.raises(ValueError, match="precision must be one of"):
        kind(precision="fp8")


@pytest.mark.parametrize("name", ALL)
def test_transforms_of_torch_func(name: str) -> None:
    kind, (first, second) = getattr(fastclr, name), (view.detach() for view in views())
    for transform in (torch.func.grad, lambda function: lambda x: torch.func.vjp(function, x)):
        with pytest.raises(ValueError, match=r"torch\.func transforms need impl='reference'"):
            transform(lambda x: call(kind(), x, second))(first)
    found = torch.func.grad(lambda x: call(kind(impl="reference"), x, second))(first)
    leaf = first.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(call(kind(), leaf, second), leaf)[0], rtol=1e-9, atol=1e-12)


class Model(torch.nn.Module):
    """A network that holds its loss."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.loss = torch.nn.Linear(5, 4).double(), loss

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return call(self.loss, self.encoder(first), self.encoder(second))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_export_keeps_the_gradient_or_says_that_it_cannot(name: str) -> None:
    kind: Callable[..., torch.nn.Module] = getattr(fastclr, name)
    data = [view.detach() for view in views()]
    with pytest.raises(ValueError, match=r"torch\.export drops the gradient.*impl='reference'"):
        torch.export.export(Model(kind()), (*data,), strict=False)
    model = Model(kind(impl="reference"))
    exported = torch.export.export(model, (*data,), strict=False).module()
    exported(*data).backward()
    found = dict(exported.named_parameters())["encoder.weight"].grad
    torch.testing.assert_close(found, torch.autograd.grad(model(*data), model.encoder.weight)[0])
    # what needs no gradient is exported as it is
    fixed = Model(kind()).requires_grad_(False)
    program = torch.export.export(fixed, (*data,), strict=False).module()
    torch.testing.assert_close(program(*data), fixed(*data))
