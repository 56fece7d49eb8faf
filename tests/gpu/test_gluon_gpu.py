"""The warp-specialised backward on an H100 or H200: against float64, and against Triton's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from loss_cases import make_views, relative_error
from torch import Tensor

from fastclr import nt_xent
from fastclr.losses import contrast_op
from fastclr.losses.contrast_reference import nt_xent as reference

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HOPPER, reason="no device of compute capability 9.0")]
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
FIRST = """
import torch
from fastclr import nt_xent
z0, z1 = (torch.randn(3000, 128, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(2))
nt_xent(z0, z1, 0.1, impl="gluon").backward()
assert torch.isfinite(z0.grad).all()
"""


@pytest.fixture(scope="module", autouse=True)
def first_launch() -> None:
    """In a process of its own, which can be killed: a kernel whose barriers wait in a circle never ends."""
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=300)


def gradients(z0: Tensor, z1: Tensor, temperature: float | Tensor, weighted: bool, **options: str) -> Tensor:
    leaves = [z.clone().requires_grad_() for z in (z0, z1)]
    loss = nt_xent(*leaves, temperature, reduction="none" if weighted else "mean", **options)
    weight = torch.linspace(-0.5, 1.5, loss.numel(), device="cuda", dtype=loss.dtype).view_as(loss)
    return torch.cat(torch.autograd.grad(loss, leaves, weight))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("dim", [8, 64, 72, 128])
@pytest.mark.parametrize("pairs", [1, 65, 500, 3000])
def test_every_path(pairs: int, dim: int, dtype: torch.dtype, weighted: bool) -> None:
    """Masks, padding, splits (few row tiles against many columns), the three shifts, weights of both signs."""
    views = [z.cuda() for z in make_views("far", pairs, dim, dtype, 0)]
    for temperature in (0.2, 0.002, torch.tensor(0.1, device="cuda"), torch.tensor(0.003, device="cuda")):
        exact_tau = temperature.double() if isinstance(temperature, Tensor) else temperature
        truth = gradients(*(z.double() for z in views), exact_tau, weighted, impl="reference")
        ours = gradients(*views, temperature, weighted, impl="gluon")
        triton = gradients(*views, temperature, weighted, impl="triton")
        assert torch.isfinite(ours).all()
        if truth.norm() > 1e-6:
            room = ROUNDING[dtype] + 1.1 * relative_error(triton, truth)
            assert relative_error(ours, truth) <= room, temperature


def test_float32_rounded_to_bfloat16() -> None:
    views = [z.cuda() for z in make_views("random", 700, 128, torch.float32, 0)]
    ours, triton = (gradients(*views, 0.1, False, impl=impl, precision="bf16") for impl in ("gluon", "triton"))
    assert relative_error(ours, triton) <= 2**-7


def test_the_same_bits_every_time() -> None:
    """Also beside another stream's work, which changes when groups and copies come to their barriers."""
    views = [z.cuda() for z in make_views("random", 4000, 128, torch.bfloat16, 0)]
    first = gradients(*views, 0.1, False, impl="gluon", deterministic=True)
    other, busy = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        with torch.cuda.stream(other):
            busy @ busy
        assert torch.equal(gradients(*views, 0.1, False, impl="gluon", deterministic=True), first)


def test_one_rank_among_two() -> None:
    """The rows of two ranks against the columns of both: the offset of a rank lies inside of a tile."""
    pairs, tau = 150, torch.tensor(0.2, device="cuda")
    parts = [[z.cuda() for z in make_views("random", pairs, 64, torch.float16, seed)] for seed in range(2)]
    prologue = [contrast_op.ntxent_prologue(*part, True, "ieee", "gluon") for part in parts]
    columns = torch.cat([z for z, _, _ in prologue])
    forward = [
        contrast_op.ntxent_fwd(z, columns, positive, tau, 2 * pairs * r, "fixed", "ieee", False, False, "gluon")
        for r, (z, _, positive) in enumerate(prologue)
    ]
    lse = torch.cat([out[1] for out in forward])
    whole = [torch.cat(views).double().requires_grad_() for views in zip(*parts, strict=True)]
    truth = torch.autograd.grad(reference(*whole, 0.2, reduction="sum"), whole)
    for r, (part, (z, inv_norm, positive), out) in enumerate(zip(parts, prologue, forward, strict=True)):
        dz0, dz1, _ = contrast_op.ntxent_bwd(
            *part, z, columns, inv_norm, positive, out[0], lse, None, torch.ones((), device="cuda"), tau,
            2 * pairs * r, True, "fixed", "ieee", "gluon",
        )  # fmt: skip
        for mine, true in ((dz0, truth[0]), (dz1, truth[1])):
            assert relative_error(mine, true[pairs * r : pairs * (r + 1)]) <= 4e-3
