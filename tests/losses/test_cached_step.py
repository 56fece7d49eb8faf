"""cached_step against a graph of the whole batch: the direct step, or all micro-batch forwards before one backward."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr import NTXentLoss, cached_step, nt_xent
from fastclr.bench import memory
from fastclr.losses import contrast_reference as reference

Loss = Callable[..., Any]


def dense_loss(z0: Tensor, z1: Tensor) -> Tensor:
    return reference.nt_xent(z0, z1, 0.3)


def make_views(count: int, *, views: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noisy views of random images, ``[views, count, 3, 8, 8]``."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(count, 3, 8, 8, generator=generator)
    noise = torch.randn(views, *base.shape, generator=generator)
    return (base + 0.5 * noise).to(dtype)


def encoder(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    middle = {
        "plain": [nn.GroupNorm(2, 8)],
        "dropout": [nn.Dropout(0.4)],
        "batch norm": [nn.BatchNorm2d(8)],
        "spectral norm": [nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))],
        "new buffer": [RunningScale()],
    }[kind]
    layers = [nn.Conv2d(3, 8, 3, 2), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(72, 6)]
    return nn.Sequential(*layers).to(dtype)


class RunningScale(nn.Module):
    """Divides by a running scale, which each forward replaces with a new tensor."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.scale = 0.9 * self.scale + 0.1 * x.detach().abs().mean()
        return x / self.scale


def step_at_once(model: nn.Module, views: Tensor, loss: Loss, micro_batch: int | None = None) -> Tensor:
    """The same step with the graph of the whole batch; micro_batch splits the forward but not the backward."""
    size = micro_batch or views.shape[1]
    parts = [model(torch.cat(list(views[:, at : at + size]))) for at in range(0, views.shape[1], size)]
    by_view = zip(*(part.chunk(len(views)) for part in parts), strict=True)
    value: Tensor = loss(*(torch.cat(view) for view in by_view))
    value.backward()
    return value.detach()


def gradients(model: nn.Module) -> Tensor:
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None for g in grads)
    return torch.cat([g.flatten() for g in grads if g is not None])


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 10, 64])
def test_gradient_is_that_of_the_direct_step(micro_batch: int, dtype: torch.dtype, limit: float) -> None:
    views = make_views(10, dtype=dtype)
    ours, theirs = encoder("plain", dtype), encoder("plain", dtype)
    value = cached_step(ours, views, dense_loss, micro_batch)
    exact = step_at_once(theirs, views, dense_loss)
    assert not value.requires_grad
    torch.testing.assert_close(value, exact, rtol=limit, atol=0)
    assert error(gradients(ours), gradients(theirs)) < limit


@pytest.mark.parametrize("kind", ["dropout", "spectral norm", "new buffer", "batch norm"])
def test_second_forward_repeats_the_first(kind: str) -> None:
    """Random numbers, gradients, buffers and generator state match those of one forward per micro-batch."""
    views = make_views(10)
    ours, theirs = encoder(kind), encoder(kind)

    def noisy_loss(z0: Tensor, z1: Tensor) -> Tensor:
        return dense_loss(z0 + 0.1 * torch.randn_like(z0), z1)

    torch.manual_seed(5)
    value = cached_step(ours, views, noisy_loss, 4)
    next_number = torch.rand(())
    torch.manual_seed(5)
    exact = step_at_once(theirs, views, noisy_loss, 4)
    assert torch.equal(next_number, torch.rand(()))
    torch.testing.assert_close(value, exact, rtol=1e-12, atol=0)
    assert error(gradients(ours), gradients(theirs)) < 1e-12
    for (name, found), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, msg=name)


def test_batch_norm_is_exact_in_evaluation_mode_and_another_one_in_training_mode() -> None:
    views = make_views(24)
    model = encoder("batch norm")
    step_at_once(model, views, dense_loss)  # running statistics that differ from the initial ones
    distances = {}
    for training in (False, True):
        ours, theirs = copy.deepcopy(model).train(training), copy.deepcopy(model).train(training)
        for either in (ours, theirs):
            either.zero_grad()
        cached_step(ours, views, dense_loss, 6)
        step_at_once(theirs, views, dense_loss)
        distances[training] = error(gradients(ours), gradients(theirs))
    assert distances[False] < 1e-12
    assert 0.01 < distances[True] < 1.0
    assert ours[1].num_batches_tracked == 1 + 4


@pytest.mark.parametrize("form", ["tensor", "list"])
def test_any_number_of_views(form: str) -> None:
    def spread(*z: Tensor) -> Tensor:
        unit = F.normalize(torch.stack(z), dim=-1)
        return -(unit.sum(0) ** 2).sum() + (unit[0] @ unit[1].T).exp().mean()

    views = make_views(7, views=3)
    ours, theirs = encoder("plain"), encoder("plain")
    value = cached_step(ours, views if form == "tensor" else list(views), spread, 3)
    torch.testing.assert_close(value, step_at_once(theirs, views, spread), rtol=1e-12, atol=0)
    assert error(gradients(ours), gradients(theirs)) < 1e-12


def test_a_view_that_the_loss_ignores() -> None:
    views = make_views(6)
    ours, theirs = encoder("plain"), encoder("plain")
    cached_step(ours, views, lambda z0, z1: (z0**2).sum(), 4)
    (theirs(views[0]) ** 2).sum().backward()
    assert error(gradients(ours), gradients(theirs)) < 1e-12


def test_learnable_temperature_gets_its_gradient_once_and_gradients_accumulate() -> None:
    views = make_views(10)
    both = []
    for step in (lambda m, v, loss: cached_step(m, v, loss, 3), step_at_once):
        model, loss = encoder("plain"), NTXentLoss(0.3, learnable_temperature=True).double()
        for batch in (views, views.flip(0) * 0.9):
            step(model, batch, loss)
        assert loss.log_temperature is not None and loss.log_temperature.grad is not None
        both.append((gradients(model), loss.log_temperature.grad))
    (ours, ours_tau), (theirs, theirs_tau) = both
    assert error(ours, theirs) < 1e-12
    torch.testing.assert_close(ours_tau, theirs_tau, rtol=1e-12, atol=0)


def test_statistics_come_with_the_loss() -> None:
    views = make_views(10)
    model = encoder("plain")
    value, stats = cached_step(model, views, lambda a, b: nt_xent(a, b, 0.3, return_stats=True), 4)
    with torch.no_grad():
        z0, z1 = model(views[0]), model(views[1])
    torch.testing.assert_close(value, dense_loss(z0, z1), rtol=1e-12, atol=0)
    for found, exact in zip(stats, reference.nt_xent_stats(z0, z1, 0.3), strict=True):
        torch.testing.assert_close(found, exact, check_dtype=False, rtol=1e-6, atol=1e-9)


def test_autocast_at_the_call_holds_for_both_forwards() -> None:
    views = make_views(10, dtype=torch.float32)
    ours, theirs = encoder("dropout", torch.float32), encoder("dropout", torch.float32)
    seen = []

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        seen.append(z0.dtype)
        return nt_xent(z0, z1, 0.3)

    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        cached_step(ours, views, loss, 4)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        z = [theirs(torch.cat(list(views[:, at : at + 4]))) for at in range(0, 10, 4)]
        value = loss(*(torch.cat(view) for view in zip(*(part.chunk(2) for part in z), strict=True)))
    value.backward()
    assert seen == [torch.bfloat16] * 2
    # only one of the two rounds the sum over micro-batches to bfloat16
    assert error(gradients(ours), gradients(theirs)) < 0.01
    plain = encoder("dropout", torch.float32)
    torch.manual_seed(5)
    cached_step(plain, views, loss, 4)
    assert error(gradients(ours), gradients(plain)) > 1e-5  # it did compute in bfloat16


@pytest.mark.parametrize("kind", ["dropout", "batch norm"])
def test_compiled_model(kind: str) -> None:
    views = make_views(10, dtype=torch.float32)
    ours, theirs = encoder(kind, torch.float32), encoder(kind, torch.float32)
    compiled = torch.compile(ours, backend="aot_eager")
    torch.manual_seed(5)
    cached_step(compiled, views, dense_loss, 4)
    torch.manual_seed(5)
    step_at_once(theirs, views, dense_loss, 4)
    assert error(gradients(ours), gradients(theirs)) < 1e-6
    for found, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


def test_frozen_parts() -> None:
    views = make_views(10)
    ours, theirs = encoder("plain"), encoder("plain")
    for model in (ours, theirs):
        model[0].requires_grad_(False)
    cached_step(ours, views, dense_loss, 4)
    step_at_once(theirs, views, dense_loss)
    assert ours[0].weight.grad is None
    assert error(ours[-1].weight.grad, theirs[-1].weight.grad) < 1e-12

    calls = []
    frozen, loss = encoder("plain").requires_grad_(False), NTXentLoss(0.3, learnable_temperature=True).double()
    frozen.register_forward_hook(lambda *_: calls.append(1))
    cached_step(frozen, views, loss, 5)
    assert len(calls) == 2  # one forward per micro-batch, nothing to recompute
    assert loss.log_temperature is not None and loss.log_temperature.grad is not None


def test_memory_format_reaches_the_model() -> None:
    views = [view.contiguous(memory_format=torch.channels_last) for view in make_views(6)]
    model, seen = encoder("plain"), []
    model.register_forward_pre_hook(lambda _, x: seen.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    cached_step(model, views, dense_loss, 4)
    assert seen == [True] * 4


def test_memory_grows_with_the_micro_batch_and_not_with_the_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 8)
    )
    views = {count: torch.randn(2, count, 3, 16, 16) for count in (512, 2048)}

    def extra(step: Callable[[], object], count: int) -> int:
        """Peak bytes beyond the embeddings and their gradient."""
        step()
        return memory.peak_bytes(step) - 2 * (2 * count * 8 * 4)

    loss = NTXentLoss(0.3)
    cached = {n: extra(lambda n=n: cached_step(model, views[n], loss, 64), n) for n in views}
    halves = extra(lambda: cached_step(model, views[512], loss, 32), 512)
    direct = extra(lambda: step_at_once(model, views[512], loss), 512)
    assert cached[2048] == pytest.approx(cached[512], rel=0.1)
    assert halves == pytest.approx(cached[512] / 2, rel=0.2)
    assert direct > 5 * cached[512]


def refused(kind: type[Exception], message: str, **changes: Any) -> None:
    """A refused step leaves no gradient and does not change running statistics."""
    model = encoder("batch norm")
    before = copy.deepcopy(model.state_dict())
    options = {"model": model, "views": make_views(6), "loss": dense_loss, "micro_batch": 4} | changes
    with pytest.raises(kind, match=message):
        cached_step(**options)
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bad_input_is_refused() -> None:
    views = make_views(6)
    refused(ValueError, "micro_batch must be at least 1, got 0", micro_batch=0)
    refused(TypeError, r"micro_batch must be an integer, got 2\.5", micro_batch=2.5)
    refused(ValueError, r"got \[\[6, 3, 8, 8\], \[5, 3, 8, 8\]\]", views=[views[0], views[1][:5]])
    refused(ValueError, r"got \[\]", views=[])
    refused(ValueError, r"got \[\[0, 3, 8, 8\]", views=views[:, :0])
    refused(TypeError, "views must be tensors, got ndarray", views=[views[0].numpy(), views[1]])
    refused(ValueError, "detach the views", views=views.clone().requires_grad_())
    refused(ValueError, r"reduction 'mean' or 'sum'\), got shape \[12\]", loss=NTXentLoss(reduction="none"))
    refused(TypeError, r"0-dim tensor or \(0-dim tensor, extra\), got float", loss=lambda a, b: 1.0)
    refused(ValueError, "has no gradient", loss=lambda a, b: dense_loss(a.detach(), b.detach()))
    with torch.no_grad():
        refused(ValueError, "outside of no_grad")


def test_models_of_another_shape_are_refused() -> None:
    model = encoder("batch norm")
    refused(ValueError, r"must return one row per image, 8 in all, got \[4, 12\]", model=Reshaped(model, 12))
    refused(TypeError, "must return a tensor .* got tuple", model=Reshaped(model, None))
    with pytest.raises(ValueError, match="does not depend on them"):
        cached_step(Reshaped(model, 0), make_views(6), dense_loss, 4)


@pytest.mark.parametrize("kind", ["random", "state"])
def test_a_second_forward_that_differs_is_an_error(kind: str) -> None:
    class Unrepeatable(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * (1 + (random.random() if kind == "random" else self.calls))

    random.seed(0)
    with pytest.raises(ValueError, match=r"gradient is wrong: .* embeddings by \d+%"):
        cached_step(nn.Sequential(encoder("plain"), Unrepeatable()), make_views(6), dense_loss, 4)


class Reshaped(nn.Module):
    """Returns rows of another width, a tuple, or a tensor without a graph."""

    def __init__(self, model: nn.Module, width: int | None) -> None:
        super().__init__()
        self.model, self.width = model, width

    def forward(self, x: Tensor) -> Any:
        z = self.model(x)
        if self.width is None:
            return z, z
        return z.view(-1, self.width) if self.width else z.detach()
