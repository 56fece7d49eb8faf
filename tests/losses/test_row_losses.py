"""The row-softmax losses against plain formulas in float64: values and all gradients, for data that breaks losses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loss_cases import KINDS, make_views, relative_error
from row_cases import CASES, RowCase
from torch import Tensor

from fastclr import CLIPLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss, SupConLoss, nt_xent
from fastclr.losses import row_loss, tiles

TEMPERATURES = (0.001, 0.01, 0.07, 0.5, 10.0)
# of these the gradient jumps, so that a rounded similarity on the edge decides about it
EDGES = ("debiased", "hard", *(name for name in CASES if name.endswith("filtered")))


def results(loss: Callable[..., Tensor], inputs: list[Tensor], tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row losses, and the gradients of a weighted sum of them: of all inputs, and of the temperature."""
    leaves = [leaf.clone().requires_grad_() for leaf in (*inputs, tau)]
    rows = loss(*leaves).reshape(-1)
    weight = torch.linspace(0.5, 1.5, len(rows)).to(rows.dtype)
    *grads, dtau = torch.autograd.grad(rows, leaves, weight)
    return rows.detach(), torch.cat([g.double().flatten() for g in grads]), dtau


def ours(case: RowCase, reduction: str = "none", **options: object) -> Callable[..., Tensor]:
    return lambda *leaves: case.ours(*leaves[:-1], tau=leaves[-1], reduction=reduction, **options)


def plain(case: RowCase, normalize: bool = True, reduction: str = "none") -> Callable[..., Tensor]:
    reduce = {"none": lambda rows: rows, "mean": Tensor.mean, "sum": Tensor.sum}[reduction]
    return lambda *leaves: reduce(case.plain(*leaves, normalize))


def doubled(inputs: list[Tensor]) -> list[Tensor]:
    return [x.double() for x in inputs]


# the mean and the sum of these come from another operator on a CPU
AT_ONCE = [(name, reduction) for name in ("info_nce", "multiple") for reduction in ("mean", "sum")]


@pytest.mark.parametrize(("name", "reduction"), [*((name, "none") for name in CASES), *AT_ONCE])
@pytest.mark.parametrize("kind", KINDS)
def test_no_less_accurate_than_plain(kind: str, name: str, reduction: str) -> None:
    case = CASES[name]
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        inputs = case.make_inputs(kind, 33, 17, dtype)
        for value in TEMPERATURES:
            if name in EDGES and (value < 0.07 or dtype != torch.float64):
                continue
            tau = torch.tensor(value)
            truth = results(plain(case, reduction=reduction), doubled(inputs), tau.double())
            mine = results(ours(case, reduction), inputs, tau.double())
            dense = results(plain(case, reduction=reduction), inputs, tau.to(dtype))
            eps = torch.finfo(tiles.compute_dtype(dtype)).eps
            known = max(1e-12, 8 * eps / value) if dtype == torch.float64 else max(1e-6, 4 * eps / value)
            # gradients are returned in the dtype of the inputs
            half = 0.0 if dtype.itemsize > 2 else torch.finfo(dtype).eps
            # rounding of the plain formula in float64, which loses small losses beside the similarities
            lengths = torch.cat([x.double().norm(dim=-1).flatten() for x in inputs])
            floor = 8 * torch.finfo(torch.float64).eps / value * len(lengths)
            # a row's gradient is a difference of terms of length 1 / (tau |u|)
            floors = floor, (floor / value + 4 * eps * len(lengths) ** 0.5 / value) / float(lengths.min())
            for got, other, exact, rounded, lost in zip(
                mine[:2], dense[:2], truth[:2], (0.0, half), floors, strict=True
            ):
                assert torch.isfinite(got[torch.isfinite(exact.to(dtype))]).all(), (dtype, value)
                if torch.isfinite(exact.to(dtype)).all():
                    error = (other.double() - exact).norm().nan_to_num(0.0, 0.0)
                    allowed = (known + rounded) * exact.norm() + error + lost
                    assert (got.double() - exact).norm() <= allowed, (dtype, value)
            # the terms of dL/dtau are up to 1 / tau^2 per row and cancel
            error = abs(float(dense[2].nan_to_num()) - float(truth[2]))
            slack = 16 * eps * (abs(float(truth[2])) + len(truth[0]) * (1 / value**2 + 1 / value))
            if dtype == torch.float64:  # the log-sum-exps are no wider than the similarities then
                slack *= 1 + 1 / value
            assert abs(float(mine[2]) - float(truth[2])) <= error + slack, (dtype, value)


@pytest.mark.parametrize(("name", "reduction"), [*((name, "none") for name in CASES), *AT_ONCE])
@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (2, 1), (3, 2), (37, 5), (129, 3)])
@pytest.mark.parametrize("normalize", [True, False])
def test_odd_sizes_in_many_tiles(
    name: str, reduction: str, rows: int, dim: int, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)
    monkeypatch.setattr(row_loss, "FEWEST_STRIPE_ROWS", 0)
    case = CASES[name]
    inputs = case.make_inputs("random", max(rows, case.smallest), dim, torch.float64, seed=1)
    for value in (0.002, 0.3, 2.0) if name not in EDGES else (0.3, 2.0):
        tau = torch.tensor(value, dtype=torch.float64)
        truth = results(plain(case, normalize, reduction), inputs, tau)
        mine = results(ours(case, reduction, normalize=normalize), inputs, tau)
        longest = 1.0 if normalize else max(float(x.norm(dim=-1).max()) for x in inputs)
        known = 40 * torch.finfo(torch.float64).eps * (1 + longest**2 / value)
        scales = (1.0, longest / value, 2 * len(inputs[0]) * longest**2 / value**2)
        for got, exact, scale in zip(mine, truth, scales, strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-10, atol=known * scale)


@pytest.mark.parametrize("name", CASES)
def test_reference_is_differentiable_twice(name: str) -> None:
    if name == "dclw" or name.startswith("blip"):
        pytest.skip("its weights or targets depend on the rows, but are constants to the gradient")
    case = CASES[name]
    inputs = [x.requires_grad_() for x in case.make_inputs("random", 4, 3, torch.float64)]
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def loss(*leaves: Tensor) -> Tensor:
        return case.ours(*leaves[:-1], tau=leaves[-1], impl="reference")

    assert torch.autograd.gradcheck(loss, (*inputs, tau))
    assert torch.autograd.gradgradcheck(loss, (*inputs, tau))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions(name: str, reduction: str) -> None:
    case = CASES[name]
    inputs = case.make_inputs("random", 12, 5, torch.float32)
    rows = case.ours(*inputs, tau=0.2, reduction="none")
    counted = rows[rows != 0] if name.startswith("sup_con") else rows
    torch.testing.assert_close(case.ours(*inputs, tau=0.2, reduction=reduction), getattr(counted, reduction)())
    assert rows.dtype == torch.float32


@pytest.mark.parametrize("name", CASES)
def test_second_derivative_is_refused(name: str) -> None:
    case = CASES[name]
    inputs = [x.requires_grad_() for x in case.make_inputs("random", 6, 4, torch.float32)]
    (grad,) = torch.autograd.grad(case.ours(*inputs, tau=0.5), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*impl='reference'"):
        grad.square().sum().backward()


def test_sup_con_of_unique_labels_is_nt_xent() -> None:
    z0, z1 = (z.requires_grad_() for z in make_views("random", 21, 6, torch.float64))
    views = torch.stack([z0, z1], dim=1)
    exact = nt_xent(z0, z1, 0.1)
    for labels in (None, torch.arange(21), torch.full((21,), -1)):
        for form in ("out", "in"):
            found = SupConLoss(0.1, form=form)(views, labels)
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)
            for mine, other in zip(
                torch.autograd.grad(found, (z0, z1), retain_graph=True),
                torch.autograd.grad(exact, (z0, z1), retain_graph=True),
                strict=True,
            ):
                assert relative_error(mine, other) < 1e-12


def test_sup_con_inner_form_is_at_most_the_outer_one() -> None:
    views = torch.stack(make_views("far", 30, 4, torch.float64), dim=1)
    labels = torch.arange(30) % 4
    inner, outer = (SupConLoss(0.1, form=form, reduction="none")(views, labels) for form in ("in", "out"))
    assert inner.shape == outer.shape == (30, 2)
    assert (inner <= outer + 1e-12).all()


def test_sup_con_without_positives_is_zero() -> None:
    z = make_views("random", 7, 4)[0].requires_grad_()
    for labels in (torch.arange(7), torch.full((7,), -1)):
        for form in ("out", "in"):
            loss = SupConLoss(form=form)(z, labels)
            (grad,) = torch.autograd.grad(loss, z)
            assert loss == 0 and not grad.any()
    assert SupConLoss()(z[:1], torch.zeros(1, dtype=torch.long)) == 0


def test_sup_con_of_identical_rows_is_the_logarithm_of_their_number() -> None:
    z = torch.ones(12, 3)
    assert float(SupConLoss()(z, torch.zeros(12, dtype=torch.long))) == pytest.approx(2.3978952728, rel=1e-6)


def test_clip_is_symmetric_and_takes_the_factor() -> None:
    a, b = make_views("random", 40, 8, torch.float64)
    scale = torch.tensor(14.0, dtype=torch.float64)
    torch.testing.assert_close(CLIPLoss()(a, b, scale), CLIPLoss()(b, a, scale), rtol=1e-14, atol=0)
    assert CLIPLoss()(a, b, scale) == CLIPLoss()(a, b, 14.0) == CLIPLoss(1 / 14.0)(a, b)


def test_nothing_to_compare_with() -> None:
    a, b = (z.requires_grad_() for z in make_views("random", 5, 4))
    for loss in (
        InfoNCELoss()(a, b, torch.empty(0, 4)),
        InfoNCELoss()(a, b, torch.empty(5, 0, 4)),
        InfoNCELoss()(a[:1], b[:1]),
        CLIPLoss()(a[:1], b[:1]),
        MultipleNegativesLoss(query_query=True)(a[:1], b[:1]),
        DebiasedNTXentLoss(hardness=0.5)(a[:1], b[:1]),
    ):
        grads = torch.autograd.grad(loss, (a, b))
        assert loss == 0 and not any(grad.any() for grad in grads)


def test_debiased_with_nothing_to_correct_is_nt_xent() -> None:
    z0, z1 = make_views("random", 20, 6, torch.float64)
    found = DebiasedNTXentLoss(0.3, prior=0.0)(z0, z1)
    torch.testing.assert_close(found, nt_xent(z0, z1, 0.3), rtol=1e-13, atol=0)


def test_a_row_at_the_floor_gives_its_negatives_no_gradient() -> None:
    a, b = (z.requires_grad_() for z in make_views("close", 8, 16, torch.float64))
    rows = DebiasedNTXentLoss(0.1, prior=0.5, reduction="none")(a, b)
    (grad,) = torch.autograd.grad(rows[0], a)
    assert grad[0].any() and not grad[1:].any()
