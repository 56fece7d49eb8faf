"""``softplus_pairs`` in blocks against its specification, and the contracts of the operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_cases import relative_error
from torch import Tensor

from fastclr.bench.memory import peak_bytes
from fastclr.losses import softplus_blocks, softplus_op
from fastclr.losses.softplus_op import SoftplusOptions, softplus_pairs

INCLUDES = ("all", "others", "negatives", "same_id", "same_id_others")


def inputs(rows: int, columns: int, dim: int, dtype: torch.dtype, per_row: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = [randn(rows, dim).to(dtype), randn(columns, dim).to(dtype), torch.tensor(1.7, dtype=torch.float64)]
    made.append(randn(rows) if per_row else torch.tensor(-2.0, dtype=torch.float64))
    return [value.requires_grad_() for value in made]


def both(made: list[Tensor], weight: Tensor, ids: Any, options: SoftplusOptions) -> list[Tensor]:
    """Value, and the gradients of rows, columns, scale and bias."""
    loss = softplus_pairs(*made, options, ids)
    return [loss.detach(), *torch.autograd.grad(loss, made, weight.to(loss.dtype))]


@pytest.mark.parametrize("activation", ["softplus", "hinge"])
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("include", INCLUDES)
def test_equals_the_reference(include: str, per_row: bool, reduce: bool, activation: str) -> None:
    rows, columns = (20, 20) if include == "negatives" else (20, 27)
    made = inputs(rows, columns, 7, torch.float64, per_row)
    ids = (torch.arange(rows) % 4, torch.arange(columns) % 5) if "id" in include else None
    weight = torch.tensor(0.3) if reduce else torch.linspace(-1, 2, rows)
    found, expected = (
        both(made, weight, ids, SoftplusOptions(include, activation, reduce, impl=impl))
        for impl in ("blockwise", "reference")
    )
    for mine, exact in zip(found, expected, strict=True):
        assert mine.shape == exact.shape and relative_error(mine, exact) <= 1e-12


@pytest.mark.parametrize("reduce", [True, False])
def test_many_tiles_in_float32(reduce: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softplus_blocks, "block_size", lambda *_: 32)
    made = inputs(100, 100, 9, torch.float32, True)
    wide = [value.detach().double().requires_grad_() for value in made]
    weight = torch.tensor(2.0) if reduce else torch.linspace(0.1, 2, 100)
    for include in INCLUDES:
        ids = (torch.arange(100) % 7, torch.arange(100) % 7) if "id" in include else None
        found = both(made, weight, ids, SoftplusOptions(include, reduce=reduce))
        expected = both(wide, weight, ids, SoftplusOptions(include, reduce=reduce, impl="reference"))
        for mine, exact in zip(found, expected, strict=True):
            assert relative_error(mine, exact) <= 1e-6


def test_softplus_is_exact_from_nothing_to_huge() -> None:
    for dtype in (torch.float32, torch.float64):
        s = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([-1e30, 1e30, -torch.inf, 0.0])]).to(dtype)
        found = softplus_blocks._softplus(s.clone(), torch.empty_like(s), torch.empty_like(s))
        exact = torch.logaddexp(s.double(), torch.zeros_like(s, dtype=torch.float64))
        eps = torch.finfo(dtype).eps
        # the rounding of the exponent s / ln 2 costs |s| ulp
        allowed = exact * eps * (4 + s.double().abs().clamp_max(100)) + torch.finfo(dtype).tiny * 4
        assert ((found.double() - exact).abs() <= allowed).all()


def test_stores_no_matrix() -> None:
    made = inputs(3000, 3000, 8, torch.float32, True)
    options = SoftplusOptions("others")
    assert peak_bytes(lambda: softplus_pairs(*made, options).backward()) <= 8 * 2**20 < 4 * 3000**2 / 4


def test_differentiable_once() -> None:
    made = inputs(5, 6, 4, torch.float64, False)
    for reduce in (True, False):
        loss = softplus_pairs(*made, SoftplusOptions(reduce=reduce))
        (first,) = torch.autograd.grad(loss.sum(), made[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            first.sum().backward()
    reference = SoftplusOptions(impl="reference")
    assert torch.autograd.gradcheck(lambda *args: softplus_pairs(*args, reference), made)
    assert torch.autograd.gradgradcheck(lambda *args: softplus_pairs(*args, reference), made)


@pytest.mark.parametrize("sides", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(dtype: torch.dtype, sides: int) -> None:
    q, k, scale, bias = (value.detach() for value in inputs(5, 6, 4, dtype, True))
    ids = torch.arange(5), torch.arange(6) % 2
    arguments = (q, k, scale, bias, *ids, torch.ones(5), "same_id", 0, False, "softplus", "auto", sides, "blockwise")
    torch.library.opcheck(softplus_op.softplus_op, arguments)


def test_no_columns_and_one_side_only() -> None:
    q, k, scale, bias = inputs(5, 6, 4, torch.float64, False)
    assert float(softplus_pairs(q, k[:0], scale, bias, SoftplusOptions()).detach()) == 0
    loss = softplus_pairs(q, k.detach(), scale.detach(), bias.detach(), SoftplusOptions())
    (alone,) = torch.autograd.grad(loss, q)
    torch.testing.assert_close(alone, torch.autograd.grad(softplus_pairs(q, k, scale, bias, SoftplusOptions()), q)[0])
