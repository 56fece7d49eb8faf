"""The CPU operator of NT-Xent against float64: widths, tails, odd data, threads, and where it steps aside."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from loss_cases import KINDS, make_views, plain_nt_xent, relative_error
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import contrast_native
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent
from fastclr.losses.inputs import Reduction

CAPABILITY = torch.backends.cpu.get_cpu_capability()
LANES = [4, *([8] if CAPABILITY.startswith("AVX") else []), *([16] if CAPABILITY == "AVX512" else [])]
SHAPES = [(1, 1), (1, 17), (2, 1), (3, 5), (8, 31), (15, 8), (16, 16), (17, 33), (24, 7), (33, 64), (50, 3), (131, 9)]
OPERATORS = torch.ops.fastclr


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def exact(z0: Tensor, z1: Tensor, tau: float, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 losses per row, and the gradients of their weighted sum by the rows and the temperature."""
    leaves = [z.double().requires_grad_() for z in (z0, z1)]
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    rows = plain_nt_xent(*leaves, temperature)
    grads = torch.autograd.grad(rows, [*leaves, temperature], torch.ones_like(rows) if weight is None else weight)
    return rows.detach(), torch.cat(grads[:2]), grads[2]


def close(found: tuple[Tensor, ...], truth: tuple[Tensor, ...], tau: float) -> None:
    """One rounding of a similarity moves a loss by eps / tau, and so its gradient, which has a factor 1 / tau."""
    eps = 1e-7 * (1 + 1 / abs(tau))
    assert float((found[0] - truth[0]).abs().max()) <= eps * (1 + float(truth[0].abs().max()))
    scale = float(truth[1].norm()) + 1e-3 / abs(tau)
    assert float((found[1] - truth[1]).norm()) <= 5 * eps * scale
    assert abs(float(found[2] - truth[2])) <= eps * (abs(float(truth[2])) + len(truth[1]) / tau**2)


def test_it_is_built_and_used() -> None:
    assert CAPABILITY.startswith("AVX") == contrast_native.AVAILABLE
    views = [z.requires_grad_() for z in make_views("random", 4, 3)]
    names = {reduction: nt_xent(*views, reduction=reduction).grad_fn.name() for reduction in ("mean", "sum", "none")}
    assert set(names.values()) == {"NativeNTXentBackward", "NativeRowsBackward"} or not contrast_native.AVAILABLE


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tau", [0.0154, 0.1, -0.3, 10.0])
def test_every_width_and_tail(lanes: int, tau: float) -> None:
    for pairs, dim in SHAPES:
        z0, z1 = make_views("random", pairs, dim, seed=pairs)
        rows, dz, dtau = exact(z0, z1, tau)
        for mean in (False, True):
            by = 2 * pairs if mean else 1
            loss, dz0, dz1, dtemperature = OPERATORS.ntxent_cpu(z0, z1, tau, mean, True, lanes)
            found = loss.double() * by / (2 * pairs), torch.cat([dz0, dz1]).double() * by, dtemperature.double() * by
            close(found, (rows.mean(), dz, dtau), tau)
            assert torch.equal(loss, OPERATORS.ntxent_cpu(z0, z1, tau, mean, False, lanes)[0])
        losses, terms = OPERATORS.ntxent_cpu_rows(z0, z1, tau, lanes)
        weight = torch.linspace(-1, 2, 2 * pairs)
        _, dz, dtau = exact(z0, z1, tau, weight.double())
        dz0, dz1, dtemperature = OPERATORS.ntxent_cpu_rows_bwd(z0, z1, terms, weight, tau, lanes)
        close((losses.double(), torch.cat([dz0, dz1]).double(), dtemperature.double()), (rows, dz, dtau), tau)


@pytest.mark.parametrize("lanes", LANES)
def test_as_exact_as_the_documentation_says(lanes: int) -> None:
    for pairs, dim in ((64, 128), (300, 64)):
        z0, z1 = make_views("random", pairs, dim)
        rows, dz, _ = exact(z0, z1, 0.5)
        loss, dz0, dz1, _ = OPERATORS.ntxent_cpu(z0, z1, 0.5, False, True, lanes)
        # the loss itself is rounded to float32
        assert abs(float(loss) - float(rows.sum())) <= (1e-8 + 2**-24) * float(rows.sum())
        assert relative_error(torch.cat([dz0, dz1]), dz) <= 2.5e-7


@pytest.mark.parametrize("lanes", LANES)
def test_many_tiles_that_are_computed_twice(lanes: int) -> None:
    """Beyond some 2,000 rows the exponentials are not kept from the forward."""
    z0, z1 = make_views("random", 1201, 6)
    rows, dz, dtau = exact(z0, z1, 0.2)
    loss, dz0, dz1, dtemperature = OPERATORS.ntxent_cpu(z0, z1, 0.2, False, True, lanes)
    close((loss.double() / 2402, torch.cat([dz0, dz1]).double(), dtemperature.double()), (rows.mean(), dz, dtau), 0.2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.001, 0.0154, 0.07, 0.5, 10.0])
def test_odd_data_through_the_public_function(kind: str, tau: float) -> None:
    z0, z1 = (z.requires_grad_() for z in make_views(kind, 33, 17))
    rows, dz, _ = exact(z0.detach(), z1.detach(), tau)
    loss = nt_xent(z0, z1, tau, reduction="sum")
    grads = torch.cat(torch.autograd.grad(loss, (z0, z1)))
    eps = 2.4e-7 * (1 + 1 / tau)
    assert abs(float(loss.detach()) - float(rows.sum())) <= eps * (float(rows.sum()) + 66)
    # a rounded similarity turns the gradient of one row by eps / tau of the pull on it
    lengths = torch.cat([z0, z1]).detach().double().norm(dim=1, keepdim=True)
    assert bool(((grads - dz) * lengths).norm(dim=1).le(10 * eps / tau).all())


@pytest.mark.parametrize(("pairs", "dim"), [(40, 20), (257, 64), (700, 33), (1300, 8)])
def test_same_bits_with_any_number_of_threads(pairs: int, dim: int, threads: None) -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("random", pairs, dim))
    results = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        losses = nt_xent(z0, z1, 0.1), nt_xent(z0, z1, 0.1, reduction="none")
        grads = [torch.autograd.grad(loss.sum(), (z0, z1)) for loss in losses]
        results.append((*losses, *grads[0], *grads[1]))
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_rows_of_nothing_get_no_gradient() -> None:
    z0, z1 = make_views("random", 12, 7)
    z0[3], z1[5] = 0.0, 1e-14
    leaves = [z.requires_grad_() for z in (z0, z1)]
    doubles = [z.detach().double().requires_grad_() for z in leaves]
    loss, truth = nt_xent(*leaves, 0.2), reference_nt_xent(*doubles, 0.2)
    loss.backward()
    truth.backward()
    torch.testing.assert_close(loss.double(), truth, rtol=1e-7, atol=0)
    for mine, exactly in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(mine.grad.double(), exactly.grad, rtol=2e-6, atol=1e-7)
    assert not z0.grad[3].any() and not z1.grad[5].any()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7F800001, -1, 0x7F800000, -0x800000], ids=hex)
def test_what_is_not_finite_is_not_hidden(bits: int) -> None:
    z0, z1 = make_views("random", 20, 6)
    z0.view(torch.int32)[7, 2] = bits
    loss = nt_xent(z0.requires_grad_(), z1, 0.1, reduction="none")
    loss.sum().backward()
    assert not loss.isfinite().any() and not z0.grad.isfinite().all()
    assert not nt_xent(z0, z1, 0.1).isfinite()


def test_a_temperature_with_a_gradient() -> None:
    z0, z1 = make_views("far", 12, 5)
    for reduction in ("mean", "sum", "none"):
        tau, exactly = (torch.tensor(0.3, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64))
        nt_xent(z0, z1, tau, reduction=reduction).square().sum().backward()
        reference_nt_xent(z0.double(), z1.double(), exactly, reduction=reduction).square().sum().backward()
        torch.testing.assert_close(tau.grad.double(), exactly.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_a_second_derivative_is_refused_whatever_needs_it(reduction: str, leaf: int) -> None:
    leaves = [*make_views("random", 6, 4), torch.tensor(0.3)]
    leaves[leaf].requires_grad_()
    loss = nt_xent(*leaves, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(loss, leaves[leaf], create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*impl='reference'"):
        grad.square().sum().backward()


def test_half_of_the_gradients() -> None:
    z0, z1 = make_views("random", 9, 4)
    both = [z.clone().requires_grad_() for z in (z0, z1)]
    nt_xent(*both).backward()
    for needed in (0, 1):
        views = [z0.clone(), z1.clone()]
        views[needed].requires_grad_()
        nt_xent(*views).backward()
        assert torch.equal(views[needed].grad, both[needed].grad) and views[1 - needed].grad is None


def test_what_it_does_not_cover_takes_the_blocks() -> None:
    def path(*views: Tensor, **options: object) -> str:
        loss = nt_xent(*(view.requires_grad_() for view in views), **options)
        return (loss[0] if isinstance(loss, tuple) else loss).grad_fn.name()

    views = make_views("random", 4, 3)
    for options in (
        {"temperature": 0.0125},
        {"temperature": torch.tensor(0.0125)},
        {"normalize": False},
        {"return_stats": True},
        {"impl": "blockwise"},
    ):
        assert path(*views, **options) == "NTXentFunctionBackward", options
    assert path(*(z.detach().double() for z in views)) == "NTXentFunctionBackward"
    assert contrast_native.covered_temperature(torch.empty(2, 3, device="meta"), 0.5) is None
    assert contrast_native.covered_temperature(views[0], math.nan) is None
    assert contrast_native.covered_temperature(views[0], math.inf) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, reduction: Reduction) -> None:
    views = [z.requires_grad_() for z in make_views("random", 20, 9, dtype)]
    wide = [z.detach().float().requires_grad_() for z in views]
    losses = [nt_xent(*leaves, 0.1, reduction=reduction) for leaves in (views, wide)]
    assert losses[0].grad_fn.name() == losses[1].grad_fn.name() and torch.equal(*losses)
    halves = torch.autograd.grad(losses[0].sum(), views)
    wides = torch.autograd.grad(losses[1].sum(), wide)
    assert all(torch.equal(half, full.to(dtype)) for half, full in zip(halves, wides, strict=True))


def test_without_the_operator_the_blocks_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_native, "AVAILABLE", False)
    views = [z.requires_grad_() for z in make_views("random", 30, 12)]
    missing, blocks = NTXentLoss(0.1)(*views), NTXentLoss(0.1, impl="blockwise")(*views)
    assert missing.grad_fn.name() == "NTXentFunctionBackward"
    assert torch.equal(missing, blocks)
    for mine, other in zip(*(torch.autograd.grad(loss, views) for loss in (missing, blocks)), strict=True):
        assert torch.equal(mine, other)


def test_opcheck() -> None:
    z0, z1 = make_views("random", 6, 4)
    for gradient in (False, True):
        torch.library.opcheck(OPERATORS.ntxent_cpu.default, (z0, z1, 0.3, True, gradient, 0))
    torch.library.opcheck(OPERATORS.ntxent_cpu_rows.default, (z0, z1, 0.3, 0))
    _, terms = OPERATORS.ntxent_cpu_rows(z0, z1, 0.3, 0)
    torch.library.opcheck(OPERATORS.ntxent_cpu_rows_bwd.default, (z0, z1, terms, torch.ones(12), 0.3, 0))


def test_wrong_arguments_of_the_operators_are_refused() -> None:
    z0, z1 = make_views("random", 6, 4)
    _, terms = OPERATORS.ntxent_cpu_rows(z0, z1, 0.3, 0)
    wrong = [
        (OPERATORS.ntxent_cpu, (z0.double(), z1, 0.3, True, True, 0), "float32"),
        (OPERATORS.ntxent_cpu, (z0, z1[:5], 0.3, True, True, 0), "same shape"),
        (OPERATORS.ntxent_cpu, (z0[:0], z1[:0], 0.3, True, True, 0), r"N, D >= 1"),
        (OPERATORS.ntxent_cpu, (z0, z1, 0.01, True, True, 0), "too near to 0"),
        (OPERATORS.ntxent_cpu, (z0, z1, math.nan, True, True, 0), "too near to 0"),
        (OPERATORS.ntxent_cpu, (z0, z1, 0.3, True, True, 5), "vectors of 5 floats"),
        (OPERATORS.ntxent_cpu_rows_bwd, (z0, z1, terms[:1], torch.ones(12), 0.3, 0), "terms must be"),
        (OPERATORS.ntxent_cpu_rows_bwd, (z0, z1, terms, torch.ones(11), 0.3, 0), "weight must be"),
    ]
    for operator, arguments, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            operator(*arguments)
