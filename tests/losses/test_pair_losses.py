"""SigLIP, NT-Logistic and the margin triplet against their definitions, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import KINDS, make_views, relative_error
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from fastclr import BarlowTwinsLoss, MarginTripletLoss, NTLogisticLoss, SigLIPLoss
from fastclr.losses.mining import hardest

Loss = Callable[..., Tensor]


def siglip_formula(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """One value per image, ``-sum_j log sigmoid(y_ij (scale <x_i, y_j> + bias))`` with y 1 on the diagonal, else -1."""
    logits = scale * normalize(x, dim=1) @ normalize(y, dim=1).T + bias
    return -logsigmoid((2 * torch.eye(len(x), dtype=x.dtype) - 1) * logits).sum(1)


def rival_formula(x: Tensor, y: Tensor, tau: Tensor | None, margin: float, negatives: str, mining: str) -> Tensor:
    """``[2N]``, one anchor at a time; tau None for the triplet."""
    z = [normalize(x, dim=1), normalize(y, dim=1)]
    losses = []
    for view in (0, 1):
        for i in range(len(x)):
            positive = z[view][i] @ z[1 - view][i]
            others = [z[1 - view][j] for j in range(len(x)) if j != i]
            if negatives == "both_views":
                others += [z[view][j] for j in range(len(x)) if j != i]
            found = [z[view][i] @ other for other in others]
            if mining == "semi_hard":
                width = margin if tau is None else math.inf
                found = [s for s in found if positive.item() - width < s.item() < positive.item()]
                found = [max(found, key=Tensor.item)] if found else []
            if tau is None:
                losses.append(sum((torch.relu(s - positive + margin) for s in found), 0 * positive))
            else:
                losses.append(-logsigmoid(positive / tau) - sum(logsigmoid(-s / tau) for s in found))
    return torch.stack(losses)


def compare(ours: Loss, theirs: Loss, leaves: list[Tensor], limit: float) -> None:
    """Value and all gradients, with unequal weights where there is more than one value."""
    values = [loss_of(*leaves) for loss_of in (ours, theirs)]
    weight = torch.linspace(-1, 2, values[0].numel()).view(values[0].shape).to(values[0].dtype) + 0.5
    grads = [torch.autograd.grad((value * weight).sum(), leaves) for value in values]
    assert relative_error(values[0].detach(), values[1].detach()) <= limit
    for mine, exact in zip(*grads, strict=True):
        assert relative_error(mine, exact) <= limit


def reduced(rows: Tensor, reduction: str) -> Tensor:
    return rows if reduction == "none" else rows.mean() if reduction == "mean" else rows.sum()


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_siglip_and_its_gradients_of_scale_and_bias(reduction: str, impl: str) -> None:
    leaves = [view.requires_grad_() for view in make_views("random", 21, 8, torch.float64)]
    leaves += [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (12.0, -3.0)]
    loss_of = SigLIPLoss(reduction=reduction, impl=impl)
    compare(loss_of, lambda *args: reduced(siglip_formula(*args), reduction), leaves, 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [("one_view", "none"), ("one_view", "semi_hard"), ("both_views", "none")], ids=str)
def test_nt_logistic(options: tuple[str, str], reduction: str) -> None:
    leaves = [view.requires_grad_() for view in make_views("random", 9, 6, torch.float64)]
    leaves.append(torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    negatives, mining = options

    def ours(x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        return NTLogisticLoss(tau, negatives=negatives, mining=mining, reduction=reduction)(x, y)

    compare(ours, lambda x, y, tau: reduced(rival_formula(x, y, tau, 0.0, *options), reduction), leaves, 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("margin", [0.0, 0.4, 1.6])
def test_margin_triplet(margin: float, mining: str, reduction: str) -> None:
    leaves = [view.requires_grad_() for view in make_views("random", 9, 6, torch.float64)]
    ours = MarginTripletLoss(margin, mining=mining, reduction=reduction)
    compare(ours, lambda x, y: reduced(rival_formula(x, y, None, margin, "one_view", mining), reduction), leaves, 1e-12)


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_hard_data_in_float32(kind: str, scale: float) -> None:
    views = make_views(kind, 40, 16)
    for loss_of in (SigLIPLoss(scale), NTLogisticLoss(1 / scale), NTLogisticLoss(1 / scale, negatives="both_views")):
        found, exact = [], []
        for dtype, into in ((torch.float32, found), (torch.float64, exact)):
            leaves = [view.to(dtype).requires_grad_() for view in views]
            loss_of.impl = "blockwise" if dtype == torch.float32 else "reference"
            loss = loss_of(*leaves)
            into += [loss.detach(), torch.stack(torch.autograd.grad(loss, leaves))]
        limit = max(2e-6, 4 * torch.finfo(torch.float32).eps * scale)
        assert found[0].isfinite() and found[1].isfinite().all()
        assert (found[0] - exact[0]).abs() <= limit * max(1, float(exact[0]))
        # of collapsed rows the gradient is what rounding leaves after its projection
        floor = 16 * torch.finfo(torch.float32).eps * scale * 80**0.5 / views[0].double().norm(dim=1).median()
        assert (found[1] - exact[1]).norm() <= limit * exact[1].norm() + floor


def test_confident_pairs_keep_their_small_loss() -> None:
    x = torch.eye(4) * 3
    loss = SigLIPLoss(40.0, -20.0)(x, x)
    expected = siglip_formula(x.double(), x.double(), torch.tensor(40.0), torch.tensor(-20.0)).mean()
    assert abs(float(loss) / float(expected) - 1) <= 1e-5  # about 8e-9: softplus(20) - 20 in float32 would be 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_inputs(dtype: torch.dtype) -> None:
    views = make_views("random", 30, 16, dtype)
    for loss_of in (SigLIPLoss(), NTLogisticLoss(), MarginTripletLoss()):
        leaves = [view.clone().requires_grad_() for view in views]
        loss = loss_of(*leaves)
        wide = [view.double().requires_grad_() for view in views]
        exact = loss_of(*wide)
        assert loss.dtype == torch.float32 and relative_error(loss.detach(), exact.detach()) <= 1e-5
        mine, true = (torch.stack(torch.autograd.grad(value, of)) for value, of in ((loss, leaves), (exact, wide)))
        assert mine.dtype == dtype and relative_error(mine, true) <= 2 * torch.finfo(dtype).eps


def test_learnable_siglip_and_its_parameters() -> None:
    loss_of = SigLIPLoss(10.0, -10.0, learnable=True)
    views = make_views("random", 6, 4)
    loss_of(*views).backward()
    assert loss_of.log_scale.grad is not None and loss_of.bias.grad is not None
    torch.testing.assert_close(loss_of(*views), SigLIPLoss()(*views))
    with torch.no_grad():
        loss_of.log_scale.fill_(5.0)
    loss_of.reset_parameters()
    torch.testing.assert_close(loss_of.log_scale.detach(), torch.tensor(math.log(10.0)))
    torch.testing.assert_close(SigLIPLoss()(*views, np.float32(3.0), 2), SigLIPLoss(3.0, 2.0)(*views))


def test_learnable_nt_logistic_and_a_temperature_set_later() -> None:
    loss_of, views = NTLogisticLoss(0.2, learnable_temperature=True), make_views("random", 6, 4)
    loss_of(*views).backward()
    assert loss_of.log_temperature.grad is not None
    torch.testing.assert_close(loss_of(*views), NTLogisticLoss(0.2)(*views))
    loss_of.temperature = 0.5
    torch.testing.assert_close(loss_of(*views), NTLogisticLoss(np.float64(0.5))(*views))
    for value, words in ((-0.1, "must be positive"), (0.0, "at least 1e-08"), (math.nan, "must be finite")):
        with pytest.raises(ValueError, match=words):
            loss_of.temperature = value
    assert float(loss_of.temperature) == pytest.approx(0.5)


def test_one_pair() -> None:
    x, y = make_views("random", 1, 4, torch.float64)
    s = (normalize(x, dim=1) * normalize(y, dim=1)).sum()
    torch.testing.assert_close(SigLIPLoss()(x, y), -logsigmoid(10 * s - 10))
    torch.testing.assert_close(NTLogisticLoss(0.5)(x, y), -logsigmoid(s / 0.5))
    assert float(MarginTripletLoss()(x, y)) == float(MarginTripletLoss(mining="none")(x, y)) == 0


def test_hardest_over_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastclr.losses.mining.block_size", lambda *_: 16)
    q, k = make_views("random", 70, 5, torch.float64)
    low, high = torch.linspace(-9, 9, 70).double(), torch.linspace(-8, 10, 70).double()
    s = q @ k.T
    s = s.masked_fill((s <= low[:, None]) | (s >= high[:, None]) | torch.eye(70, dtype=torch.bool), -math.inf)
    expected = torch.where(s.amax(1) == -math.inf, -1, s.argmax(1))
    assert torch.equal(hardest(q, k, low, high, 0, "auto"), expected)
    assert (expected == -1).any() and (expected >= 0).any()


@pytest.mark.parametrize(
    "loss_of",
    [
        SigLIPLoss(learnable=True),
        pytest.param(NTLogisticLoss(0.2), marks=pytest.mark.slow),
        pytest.param(MarginTripletLoss(mining="none"), marks=pytest.mark.slow),
    ],
    ids=lambda loss_of: type(loss_of).__name__,
)
def test_compile_equals_eager(loss_of: torch.nn.Module) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss_of, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 9):
        leaves = [view.requires_grad_() for view in make_views("random", rows, 12)]
        values = compiled(*leaves), loss_of(*leaves)
        torch.testing.assert_close(*values)
        for mine, other in zip(*(torch.autograd.grad(value, leaves) for value in values), strict=True):
            torch.testing.assert_close(mine, other)


def test_autocast_changes_nothing() -> None:
    views = make_views("random", 12, 20)
    for loss_of in (SigLIPLoss(), NTLogisticLoss(), MarginTripletLoss()):
        with torch.autocast("cpu", torch.bfloat16):
            cast = loss_of(*views)
        assert torch.equal(cast, loss_of(*views))


@pytest.mark.parametrize("kind", [SigLIPLoss, BarlowTwinsLoss], ids=lambda kind: kind.__name__)
def test_export_keeps_the_gradient_or_says_that_it_cannot(kind: type[torch.nn.Module]) -> None:
    class Model(torch.nn.Module):
        def __init__(self, impl: str) -> None:
            super().__init__()
            self.encoder, self.loss = torch.nn.Linear(6, 4), kind(impl=impl)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.loss(self.encoder(first), self.encoder(second))

    views = torch.randn(8, 6), torch.randn(8, 6)
    with pytest.raises(ValueError, match=r"torch\.export drops the gradient.*impl='reference'"):
        torch.export.export(Model("auto"), views, strict=False)
    model = Model("reference")
    exported = torch.export.export(model, views, strict=False).module()
    exported(*views).backward()
    found = dict(exported.named_parameters())["encoder.weight"].grad
    torch.testing.assert_close(found, torch.autograd.grad(model(*views), model.encoder.weight)[0])
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(kind(), (views[0], views[1])).module()(*views), kind()(*views))


def test_bad_input_is_refused() -> None:
    z = torch.randn(4, 3)
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, r"\[4, 3\] and \[3, 3\]", lambda: SigLIPLoss()(z, z[:3])),
        (ValueError, "logit_scale must be at least", lambda: SigLIPLoss()(z, z, 0.0)),
        (ValueError, "logit_scale must be finite, got nan", lambda: SigLIPLoss()(z, z, torch.tensor(math.nan))),
        (ValueError, "logit_bias must be finite", lambda: SigLIPLoss()(z, z, 1.0, math.inf)),
        (ValueError, r"logit_bias must be a number or a 0-dim.*\[4\]", lambda: SigLIPLoss()(z, z, 1.0, torch.ones(4))),
        (TypeError, "logit_scale must be a number", lambda: SigLIPLoss()(z, z, "10")),
        (ValueError, "learnable logit_scale must be positive", lambda: SigLIPLoss(-1.0, learnable=True)),
        (ValueError, "needs CUDA tensors", lambda: SigLIPLoss(impl="triton")(z, z)),
        (
            ValueError,
            "gathering over a process group needs",
            lambda: SigLIPLoss(gather_distributed=True, reduction="none"),
        ),
        (ValueError, "initialised process group", lambda: SigLIPLoss(gather_distributed=True)(z, z)),
        (ValueError, "torch.func transforms", lambda: torch.func.grad(SigLIPLoss())(z, z)),
        (ValueError, "temperature", lambda: NTLogisticLoss(0.0)),
        (TypeError, "temperature", lambda: NTLogisticLoss("0.1")),
        (ValueError, "negatives must be one of", lambda: NTLogisticLoss(negatives="all")),
        (ValueError, "come from one view", lambda: NTLogisticLoss(negatives="both_views", mining="semi_hard")),
        (ValueError, "margin must be at least 0", lambda: MarginTripletLoss(-0.1)),
        (ValueError, "mining must be one of", lambda: MarginTripletLoss(mining="hard")),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
