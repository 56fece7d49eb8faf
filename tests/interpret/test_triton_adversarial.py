"""Inputs on which a careless kernel fails: degenerate directions, extreme lengths, zeros, NaN, wrong dtypes."""

from __future__ import annotations

import pytest
import torch
from oracle import TILE, check, computed, expected, make_views

from fastclr.kernels import ntxent_fwd, ntxent_prologue


def directions(kind: str, n: int = 20, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = make_views(1, n, width)[0]
    if kind == "collapsed":
        return torch.ones(n, width), torch.ones(n, width) * 2
    if kind == "antipodal":
        return first, -first
    if kind == "duplicated":
        return first[:1].expand(n, width).clone(), second
    if kind == "one-hot":
        rows = torch.eye(width)[torch.arange(n) % width]
        return rows, rows.clone()
    return first, first.clone()


@pytest.mark.parametrize("kind", ["collapsed", "antipodal", "duplicated", "one-hot", "identical"])
@pytest.mark.parametrize(("tau", "shift"), [(0.5, "fixed"), (0.02, "fixed"), (0.5, "online"), (0.002, "online")])
def test_degenerate_directions(kind: str, tau: float, shift: str) -> None:
    views = [directions(kind)]
    want, got = expected(views, tau)[0], computed(views, tau, shift=shift)[0]
    torch.testing.assert_close(got.loss.double(), want.loss, atol=3e-6 / tau, rtol=3e-6)
    for name in ("dz0", "dz1"):
        # gradients may vanish: the bound is that of one gradient of unit rows, (2 / tau) / |u|
        torch.testing.assert_close(
            getattr(got, name).double(), getattr(want, name), atol=1e-6 / tau * max(1, 0.1 / tau), rtol=1e-4
        )


def test_a_tiny_loss_keeps_its_relative_accuracy() -> None:
    """When the positive has nearly all the probability, log1p and expm1 must not round to zero."""
    views = [directions("one-hot", 8, 8)]
    want, got = expected(views, 0.05)[0], computed(views, 0.05)[0]
    assert float(want.loss.max()) < 1e-7
    torch.testing.assert_close(got.loss.double(), want.loss, atol=0.0, rtol=1e-4)
    torch.testing.assert_close(got.dz0.double(), want.dz0, atol=1e-4 * float(want.dz0.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("length", [1e-10, 1e-5, 1e10, 1e25, 1e36])
def test_lengths_whose_squares_have_no_float32(length: float) -> None:
    (first, second) = make_views(1, 20, 12)[0]
    first = first.clone()
    first[::3] *= length / first[::3].norm(dim=1, keepdim=True)
    views = [(first, second)]
    want, got = expected(views, 0.5)[0], computed(views, 0.5)[0]
    torch.testing.assert_close(got.loss.double(), want.loss, atol=1e-5, rtol=1e-5)
    for name in ("dz0", "dz1"):
        error = (getattr(got, name).double() - getattr(want, name)).norm(dim=1)
        assert (error <= 1e-5 * getattr(want, name).norm(dim=1)).all()


@pytest.mark.parametrize("path", [{}, {"deterministic": True}, {"shift": "online"}])
def test_zero_vectors_get_no_gradient(path: dict[str, object]) -> None:
    (first, second) = make_views(1, 20, 12)[0]
    first = first.clone()
    first[3] = 0
    views = [(first, second)]
    want, got = expected(views, 0.5)[0], computed(views, 0.5, **path)[0]
    torch.testing.assert_close(got.loss.double(), want.loss, atol=1e-5, rtol=1e-5)
    assert (got.dz0[3] == 0).all()
    others = torch.arange(20) != 3
    torch.testing.assert_close(got.dz0[others].double(), want.dz0[others], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.dz1.double(), want.dz1, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", [{}, {"deterministic": True}, {"shift": "online"}])
def test_nan_reaches_every_row(path: dict[str, object]) -> None:
    """A NaN row is a negative of every other row except its positive, for which it is the positive."""
    (first, second) = make_views(1, 20, 12)[0]
    first = first.clone()
    first[3, 5] = float("nan")
    got = computed([(first, second)], 0.5, **path)[0]
    assert got.loss.isnan().all()
    assert got.dz0.isnan().all() and got.dz1.isnan().all()


@pytest.mark.parametrize("shift", ["fixed", "online", "runtime"])
def test_a_temperature_of_nan_is_not_hidden(shift: str) -> None:
    got = computed(make_views(1, 20, 12), float("nan"), shift=shift)[0]
    assert got.loss.isnan().all() and got.dz0.isnan().all()


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 7), (torch.float16, 40)])
def test_ntxent_prologue(dtype: torch.dtype, width: int) -> None:
    first, second = make_views(1, 70, width, dtype)[0]
    z, inv_norm, positive = ntxent_prologue(first, second, True, "ieee")
    rows = torch.cat([first, second]).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    assert z.dtype == dtype
    torch.testing.assert_close(z.double(), unit, atol=torch.finfo(dtype).eps, rtol=0)
    torch.testing.assert_close(inv_norm.double(), 1 / rows.norm(dim=1), atol=0, rtol=1e-6)
    # the positive comes from the inputs: fp16 rows do not round it
    torch.testing.assert_close(positive.double(), (unit[:70] * unit[70:]).sum(dim=1), atol=1e-6, rtol=0)

    z, inv_norm, positive = ntxent_prologue(first, second, False, "ieee")
    assert torch.equal(z, torch.cat([first, second]))
    assert (inv_norm == 1).all()
    torch.testing.assert_close(positive.double(), (rows[:70] * rows[70:]).sum(dim=1), atol=0, rtol=1e-5)


def test_bf16_storage_of_fp32_rows() -> None:
    first, second = make_views(1, 9, 20)[0]
    z, _, _ = ntxent_prologue(first, second, True, "bf16")
    assert z.dtype == torch.bfloat16
    unit = torch.nn.functional.normalize(torch.cat([first, second]))
    torch.testing.assert_close(z.float(), unit, atol=0, rtol=torch.finfo(torch.bfloat16).eps)


@pytest.mark.xfail(strict=True, reason="Triton's interpreter multiplies the bit patterns of bfloat16 in tl.dot")
def test_canary_for_bf16_in_the_interpreter() -> None:
    """When this passes, bf16.py can be deleted."""
    check(make_views(1, 20, 16, torch.bfloat16), 0.5, 2e-2, deterministic=True)


def test_what_no_kernel_computes_is_refused() -> None:
    first, second = make_views(1, 4, 8)[0]
    with pytest.raises(TypeError, match="float64"):
        ntxent_prologue(first.double(), second.double(), True, "ieee")
    with pytest.raises(ValueError, match="at most 16384 features, got 20000"):
        ntxent_prologue(torch.zeros(1, 20000), torch.zeros(1, 20000), True, "ieee")
    z, _, positive = ntxent_prologue(first, second, True, "ieee")
    tau = torch.tensor(0.5)
    with pytest.raises(ValueError, match="multiple of 8 columns, got 12"):
        ntxent_fwd(z, torch.cat([z, z[:4]]), positive, tau, 0, "fixed", "ieee", False, True, tile=TILE)
    with pytest.raises(ValueError, match="'fixed', 'online' or 'runtime', got 'centred'"):
        ntxent_fwd(z, z, positive, tau, 0, "centred", "ieee", False, False, tile=TILE)
    with pytest.raises(ValueError, match="got 'bf16'"):
        ntxent_fwd(z, z, positive, tau, 0, "fixed", "bf16", False, False)
