"""Inputs that the loss refuses, edge cases that it defines, and whatever hypothesis comes up with."""

from __future__ import annotations

import math

import pytest
import torch
from effort import EFFORT
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import make_views, relative_error
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import inputs
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent

GOOD = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("z0", "z1", "error", "message"),
    [
        ([1.0], GOOD, TypeError, "z0 must be a tensor, got list"),
        (GOOD, None, TypeError, "z1 must be a tensor, got NoneType"),
        (GOOD.long(), GOOD.long(), TypeError, "float.*got torch.int64"),
        (GOOD.to(torch.complex64), GOOD, TypeError, "got torch.complex64"),
        (GOOD.to_sparse(), GOOD, TypeError, "dense"),
        (GOOD, GOOD.double(), TypeError, "same dtype, got torch.float32 and torch.float64"),
        (GOOD, torch.randn(5, 3), ValueError, r"\[4, 3\] and \[5, 3\]"),
        (GOOD, torch.randn(4, 2), ValueError, r"\[4, 3\] and \[4, 2\]"),
        (GOOD[0], GOOD[0], ValueError, r"\[N, D\]"),
        (GOOD[None], GOOD[None], ValueError, r"\[N, D\]"),
        (torch.empty(0, 3), torch.empty(0, 3), ValueError, "N, D >= 1"),
        (torch.empty(4, 0), torch.empty(4, 0), ValueError, "N, D >= 1"),
        (GOOD, GOOD.to("meta"), ValueError, "same device, got cpu and meta"),
    ],
)
def test_bad_views(z0: object, z1: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nt_xent(z0, z1)
    with pytest.raises(error, match=message):
        NTXentLoss()(z0, z1)


BAD_TEMPERATURES = [
    (0.0, ValueError, "got 0.0"),
    (9e-9, ValueError, "got 9e-09"),
    (-9e-9, ValueError, "got -9e-09"),
    (math.nan, ValueError, "got nan"),
    (math.inf, ValueError, "got inf"),
    ("0.1", TypeError, "got str"),
    (True, TypeError, "got bool"),
    (None, TypeError, "got NoneType"),
]


@pytest.mark.parametrize(("temperature", "error", "message"), BAD_TEMPERATURES, ids=str)
def test_bad_temperature(temperature: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nt_xent(GOOD, GOOD, temperature)
    with pytest.raises(error, match=message):
        NTXentLoss(temperature)


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (torch.tensor([0.1]), r"0-dim.*\[1\]"),
        (torch.tensor(1), "floating.*int64"),
        (torch.tensor(0.1, device="meta"), "device of z0, cpu, got meta"),
    ],
    ids=str,
)
def test_bad_temperature_tensor(temperature: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nt_xent(GOOD, GOOD, temperature)


@pytest.mark.parametrize("option", ["reduction", "precision", "impl"])
def test_unknown_option(option: str) -> None:
    with pytest.raises(
        ValueError, match=f"{option} must be one of .*'auto'.*got 'best'|reduction must be one of 'mean'"
    ):
        nt_xent(GOOD, GOOD, **{option: "best"})
    with pytest.raises(ValueError, match=f"{option} must be one of"):
        NTXentLoss(**{option: "best"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1, "learnable_temperature": True}, "learnable temperature must be positive, got -0.1"),
        ({"memory_bank_size": 64}, "length of an embedding"),
        ({"memory_bank_size": -1}, "got -1"),
        ({"memory_bank_size": (-1, 4)}, "got"),
        ({"memory_bank_size": (4, 4, 4)}, "got"),
        ({"memory_bank_size": (4, 4), "impl": "triton"}, "'auto' or 'blockwise', got 'triton'"),
        ({"process_group": "every rank"}, "gather_distributed=True"),
    ],
    ids=str,
)
def test_bad_module_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NTXentLoss(**arguments)


def test_triton_refuses_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"CUDA tensors.*TRITON_INTERPRET=1.*got cpu"):
        nt_xent(GOOD, GOOD, impl="triton")
    with pytest.raises(ValueError, match="float64"):
        nt_xent(GOOD.double(), GOOD.double(), impl="triton")
    monkeypatch.setattr(inputs, "TRITON_FOUND", False)
    with pytest.raises(ValueError, match=r"pip install 'fastclr\[triton\]'"):
        nt_xent(GOOD, GOOD, impl="triton")


def test_gather_without_process_group() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        NTXentLoss(gather_distributed=True)(GOOD, GOOD)


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
def test_zero_vector(impl: str) -> None:
    z0, z1 = make_views("random", 5, 4)
    z0[2] = 0
    leaves = z0.requires_grad_(), z1.requires_grad_()
    loss = nt_xent(*leaves, 0.1, impl=impl)
    # a row of zeros has similarity 0 with every row
    rows = torch.nn.functional.normalize(torch.cat(leaves).detach().double(), dim=1)
    scores = (rows @ rows.T / 0.1).fill_diagonal_(-torch.inf)
    assert loss.item() == pytest.approx(float((scores.logsumexp(1) - scores.roll(5, 0).diagonal()).mean()), rel=1e-6)
    grads = torch.autograd.grad(loss, leaves)
    assert not grads[0][2].any()
    assert all(torch.isfinite(grad).all() for grad in grads) and grads[1][2].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("impl", ["blockwise", "reference"])
@pytest.mark.parametrize("temperature", [0.001, 0.5])
def test_nan_propagates(temperature: float, impl: str, bad: float) -> None:
    z0, z1 = make_views("random", 5, 4)
    z0[2, 1] = bad
    loss = nt_xent(z0.requires_grad_(), z1, temperature, impl=impl)
    loss.backward()
    assert loss.isnan() and z0.grad.isnan().any()


def test_nan_temperature_tensor_propagates() -> None:
    assert nt_xent(GOOD, GOOD, torch.tensor(math.nan)).isnan()


@settings(max_examples=60 * EFFORT, deadline=None)
@given(
    pairs=st.integers(1, 40),
    dim=st.integers(1, 20),
    temperature=st.floats(0.02, 20).map(lambda tau: round(tau, 4)) | st.floats(-5, -0.05),
    lengths=st.floats(-8, 8),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    normalize=st.booleans(),
)
def test_fuzz(
    pairs: int,
    dim: int,
    temperature: float,
    lengths: float,
    seed: int,
    dtype: torch.dtype,
    reduction: str,
    normalize: bool,
) -> None:
    scale = 10**lengths if normalize else 1.0
    leaves = [(scale * z).requires_grad_() for z in make_views("far", pairs, dim, dtype, seed)]
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    options = {"reduction": reduction, "normalize": normalize}
    loss = nt_xent(*leaves, temperature, **options)
    exact = reference_nt_xent(*exact_leaves, temperature, **options)
    longest = 1.0 if normalize else torch.cat(exact_leaves).norm(dim=1).max().item()
    known = 8 * torch.finfo(dtype).eps * (1 + longest**2 / abs(temperature))
    torch.testing.assert_close(loss.double(), exact, rtol=known, atol=known * (2 * pairs if reduction == "sum" else 1))
    grads = torch.autograd.grad(loss.sum(), leaves)
    truth = torch.cat(torch.autograd.grad(exact.sum(), exact_leaves))
    if float(truth.norm()) > 1e-3 / scale:
        assert relative_error(torch.cat(grads), truth) <= 100 * known
