"""Barlow Twins and VICReg against float64, lightly and pytorch-metric-learning, and the properties they must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightly.loss import BarlowTwinsLoss as LightlyBarlow
from lightly.loss import VICRegLoss as LightlyVICReg
from loss_cases import KINDS, make_views, relative_error
from pytorch_metric_learning.losses import VICRegLoss as MetricLearningVICReg
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastclr.bench.memory import peak_bytes
from fastclr.losses import BarlowTwinsLoss, VICRegLoss, gram_blocks, gram_op, gram_reference

LOSSES: dict[str, Callable[..., Any]] = {"barlow": BarlowTwinsLoss, "vicreg": VICRegLoss}
LIGHTLY: dict[str, Callable[..., Any]] = {"barlow": LightlyBarlow, "vicreg": LightlyVICReg}
SHAPES = [(24, 40), (40, 24), (16, 16), (3, 9), (9, 1), (33, 257)]


def both(z0: Tensor, z1: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Value, and the gradients of both views in one matrix."""
    leaves = [z.detach().clone().requires_grad_() for z in (z0, z1)]
    loss = loss_of(*leaves)
    return loss.detach(), torch.stack(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("form", ["auto", "primal", "dual"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_reference_and_lightly_in_float64(name: str, shape: tuple[int, int], form: str) -> None:
    views = make_views("random", *shape, dtype=torch.float64)
    value, gradient = both(*views, LOSSES[name](form=form))
    for other in (LOSSES[name](impl="reference"), LIGHTLY[name]()):
        expected, exact = both(*views, other)
        assert relative_error(value, expected) <= 1e-12
        assert relative_error(gradient, exact) <= 1e-12


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(24, 40), (129, 64)], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_exact(name: str, shape: tuple[int, int], form: str) -> None:
    views = make_views("random", *shape)
    value, gradient = both(*views, LOSSES[name](form=form))
    expected, exact = both(*(view.double() for view in views), LOSSES[name](impl="reference"))
    assert value.dtype == gradient.dtype == torch.float32
    assert relative_error(value, expected) <= 1e-6
    assert relative_error(gradient, exact) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_half_inputs_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    views = make_views("random", 24, 40, dtype)
    value, gradient = both(*views, LOSSES[name]())
    expected, exact = both(*(view.double() for view in views), LOSSES[name](impl="reference"))
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert relative_error(value, expected) <= 1e-6
    assert relative_error(gradient, exact) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_hard_data_is_finite_and_no_worse_than_the_dense_formula(name: str, kind: str, form: str) -> None:
    views = make_views(kind, 20, 33)
    if kind == "huge" and name == "vicreg":
        views = (views[0] * 1e-22, views[1] * 1e-22)  # its covariance is of the eighth power in float32
    value, gradient = both(*views, LOSSES[name](form=form))
    dense, dense_gradient = both(*views, LIGHTLY[name]())
    expected, exact = both(*(view.double() for view in views), LOSSES[name](impl="reference"))
    assert value.isfinite() and gradient.isfinite().all()
    assert (value - expected).abs() <= max(2 * float((dense - expected).abs()), 1e-6 * float(expected))
    error, dense_error = (float((g.double() - exact).norm()) for g in (gradient, dense_gradient))
    assert error <= max(8 * dense_error, 2e-6 * float(exact.norm())) or not dense_gradient.isfinite().all()


def test_constant_columns_are_zero_and_not_noise() -> None:
    views = [torch.full((256, 3), 1234.567), torch.randn(256, 3)]
    value, gradient = both(*views, BarlowTwinsLoss())
    assert float(value) == 3.0
    assert gradient[1].abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_dual_equals_primal(name: str) -> None:
    views = make_views("random", 48, 48, dtype=torch.float64)
    found = [both(*views, LOSSES[name](form=form)) for form in ("primal", "dual")]
    assert relative_error(found[0][0], found[1][0]) <= 1e-13
    assert relative_error(found[0][1], found[1][1]) <= 1e-13


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_barlow_twins_ignores_scale_shift_and_order(form: str) -> None:
    z0, z1 = make_views("random", 50, 20, dtype=torch.float64)
    scale, shift = torch.logspace(2, 4, 20, dtype=torch.float64), torch.linspace(-3, 3, 20, dtype=torch.float64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    loss_of, vicreg = BarlowTwinsLoss(form=form), VICRegLoss(form=form)
    # large scales: the loss's eps of 1e-5 is then negligible
    expected = loss_of(1e4 * z0, 1e4 * z1)
    torch.testing.assert_close(loss_of(z0 * scale * 1e2 + shift, z1 * scale * 1e3 - shift), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(loss_of(1e4 * z0[order], 1e4 * z1[order]), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss_of(1e4 * z1, 1e4 * z0), expected, rtol=1e-12, atol=0)
    assert not torch.allclose(vicreg(2 * z0, 2 * z1), vicreg(z0, z1))
    torch.testing.assert_close(vicreg(z0 + shift, z1 + shift), vicreg(z0, z1), rtol=1e-12, atol=0)


def test_weights_and_terms() -> None:
    views = make_views("random", 12, 30, dtype=torch.float64)
    loss, terms = BarlowTwinsLoss(0.3).terms(*views)
    torch.testing.assert_close(loss, terms.invariance + 0.3 * terms.redundancy)
    torch.testing.assert_close(torch.stack(terms), torch.stack(gram_reference.barlow_twins_terms(*views)))
    module = VICRegLoss(2.0, 3.0, 4.0, eps=0.1)
    loss, parts = module.terms(*(view.requires_grad_() for view in views))
    torch.testing.assert_close(loss, 2 * parts.invariance + 3 * parts.variance + 4 * parts.covariance)
    torch.testing.assert_close(torch.stack(parts), torch.stack(gram_reference.vicreg_terms(*views, 0.1)).detach())
    assert loss.requires_grad and not parts.variance.requires_grad
    value, gradient = both(*views, module)
    expected, exact = both(*views, LightlyVICReg(2.0, 3.0, 4.0, eps=0.1))
    assert relative_error(value, expected) <= 1e-12 and relative_error(gradient, exact) <= 1e-12
    reference_loss, reference_terms = VICRegLoss(impl="reference").terms(*views)
    assert reference_loss.requires_grad and not reference_terms.covariance.requires_grad


def test_vicreg_equals_pytorch_metric_learning() -> None:
    views = make_views("random", 12, 30)
    value, gradient = both(*views, VICRegLoss())
    expected, exact = both(*views, lambda a, b: MetricLearningVICReg()(a, ref_emb=b))
    assert relative_error(value, expected) <= 1e-6 and relative_error(gradient, exact) <= 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_reference_passes_gradcheck(name: str) -> None:
    views = [view.requires_grad_() for view in make_views("random", 6, 4, dtype=torch.float64)]
    loss_of = LOSSES[name](impl="reference")
    assert torch.autograd.gradcheck(loss_of, views)
    assert torch.autograd.gradgradcheck(loss_of, views)


@pytest.mark.parametrize("name", LOSSES)
def test_dual_stores_no_matrix_of_the_dimensions(name: str) -> None:
    rows, dim = 16, 1024
    views = [view.requires_grad_() for view in make_views("random", rows, dim)]
    loss_of = LOSSES[name]()
    assert peak_bytes(lambda: loss_of(*views).backward()) <= 16 * 4 * rows * dim < 4 * dim * dim


def test_the_form_follows_the_shape() -> None:
    assert gram_blocks.is_dual("auto", 255, 256) and not gram_blocks.is_dual("auto", 256, 256)
    assert gram_blocks.is_dual("dual", 999, 1) and not gram_blocks.is_dual("primal", 1, 999)


def test_one_view_alone_and_no_gradient() -> None:
    z0, z1 = make_views("random", 6, 9)
    for loss_of in (BarlowTwinsLoss(), VICRegLoss()):
        z0.requires_grad_(True)
        loss_of(z0, z1).backward()
        assert z1.grad is None and z0.grad is not None
        z0.grad = None
        assert not loss_of(z0.detach(), z1).requires_grad
        loss = loss_of(z0, z1)
        half = torch.autograd.grad(loss, z0, torch.tensor(0.5), retain_graph=True)[0]
        torch.testing.assert_close(2 * half, torch.autograd.grad(loss, z0)[0])
    with pytest.raises(RuntimeError, match=r"differentiable once.*impl='reference'"):
        (first,) = torch.autograd.grad(VICRegLoss()(z0, z1), z0, create_graph=True)
        first.sum().backward()


@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype, grads: bool) -> None:
    views = make_views("random", 6, 4, dtype)
    torch.library.opcheck(gram_op.barlow_gram, (*views, 5e-3, "auto", "auto", grads))
    torch.library.opcheck(gram_op.vicreg_gram, (*views, 25.0, 25.0, 1.0, 1e-4, "dual", "auto", grads))


@pytest.mark.parametrize("name", LOSSES)
def test_fake_tensors_and_autocast(name: str) -> None:
    with FakeTensorMode():
        views = [torch.empty(8, 5, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
        loss = LOSSES[name]()(*views)
        loss.backward()
        assert loss.dtype == torch.float32 and views[1].grad.shape == (8, 5)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(both(*make_views("random", 12, 20), LOSSES[name]()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", LOSSES)
def test_compile_equals_eager(name: str) -> None:
    torch._dynamo.reset()
    loss_of = LOSSES[name]()
    compiled = torch.compile(loss_of, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 9, 33):
        views = make_views("random", rows, 12)
        for mine, other in zip(both(*views, compiled), both(*views, loss_of), strict=True):
            torch.testing.assert_close(mine, other)


def test_transforms_of_torch_func_need_the_reference() -> None:
    views = make_views("random", 6, 4)
    with pytest.raises(ValueError, match=r"torch\.func transforms need impl='reference'"):
        torch.func.grad(BarlowTwinsLoss())(*views)
    found = torch.func.grad(BarlowTwinsLoss(impl="reference"))(*views)
    torch.testing.assert_close(found, both(*views, BarlowTwinsLoss())[1][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_bad_input_is_refused(name: str) -> None:
    kind, z = LOSSES[name], torch.randn(4, 3)
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        kind()(z[:1], z[:1])
    with pytest.raises(ValueError, match=r"\[4, 3\] and \[3, 3\]"):
        kind()(z, z[:3])
    with pytest.raises(TypeError, match="must have the same dtype"):
        kind()(z, z.double())
    with pytest.raises(TypeError, match="z0 must be a dense"):
        kind()(z.long(), z.long())
    for options, words in (
        ({"lambda_param": float("nan")}, "lambda_param must be finite"),
        ({"form": "triangular"}, "form must be one of 'auto', 'primal', 'dual'"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"impl": "triton"}, "no kernel in Triton"),
        ({"process_group": object()}, "gather_distributed=True"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(**options)
    with pytest.raises(TypeError, match="lambda_param must be a number, got str"):
        kind("5e-3")
    with pytest.raises(ValueError, match="initialised process group"):
        kind(gather_distributed=True)(z, z)
    with pytest.raises(ValueError, match="eps must be positive"):
        VICRegLoss(eps=0.0)
