"""The loss on a CUDA device against float64, and against a plain implementation in the same dtype."""

from __future__ import annotations

import pytest
import torch
from loss_cases import KINDS, TEMPERATURES, make_views, plain_nt_xent, relative_error
from torch import Tensor

from fastclr import nt_xent
from fastclr.losses import contrast_op
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent
from fastclr.losses.contrast_reference import nt_xent_stats

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPS = torch.finfo(torch.float32).eps
# half rows are rounded once before the products, and the gradient once after
ROUNDING = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def rows_and_gradients(loss, z0: Tensor, z1: Tensor, temperature: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row losses, and the gradients of a weighted sum of them."""
    leaves = [leaf.clone().requires_grad_() for leaf in (z0, z1, temperature)]
    rows = loss(*leaves, **options)
    grads = torch.autograd.grad(rows, leaves, torch.linspace(0.5, 1.5, len(rows), device="cuda").to(rows.dtype))
    return rows.detach(), torch.cat(grads[:2]), grads[2]


def exact(z0: Tensor, z1: Tensor, temperature: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    double = (z0.double(), z1.double(), temperature.double())
    return rows_and_gradients(reference_nt_xent, *double, reduction="none", **options)


def fused(*inputs: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    return rows_and_gradients(nt_xent, *inputs, reduction="none", impl="triton", **options)


def cuda_views(kind: str, pairs: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    z0, z1 = make_views(kind, pairs, dim, dtype, seed)
    return z0.cuda(), z1.cuda()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_less_accurate_than_plain(kind: str, dtype: torch.dtype) -> None:
    views = cuda_views(kind, 129, 33, dtype)
    length = torch.cat(views).double().norm(dim=1).mean()
    for value in TEMPERATURES:
        temperature = torch.tensor(value, device="cuda")
        truth, ours = exact(*views, temperature), fused(*views, temperature)
        plain = rows_and_gradients(plain_nt_xent_cuda, *views, temperature.to(dtype))
        # the device's exp2, square root and division are accurate to a few units in the last place
        known = (8 * EPS + ROUNDING[dtype]) * max(1.0, 1 / value)
        for mine, other, true, unit in zip(ours[:2], plain[:2], truth[:2], (1.0, length), strict=True):
            assert torch.isfinite(mine).all(), value
            # if all directions agree there is no gradient, and even the one in float64 is rounding error
            if torch.isfinite(true.to(mine.dtype)).all() and true.norm() * unit > 1e-9:
                error = relative_error(other, true)
                # float32 cannot represent gradients that small: then neither result has a correct digit
                assert relative_error(mine, true) <= known + (1.1 * error if error == error else 0.0), value


def plain_nt_xent_cuda(z0: Tensor, z1: Tensor, temperature: Tensor) -> Tensor:
    with torch.device("cuda"):
        return plain_nt_xent(z0, z1, temperature)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [1, 3, 64, 100, 128, 256, 384, 513, 1024, 2048])
@pytest.mark.parametrize("pairs", [1, 2, 65, 500])
def test_sizes(pairs: int, dim: int, dtype: torch.dtype) -> None:
    views = cuda_views("far", pairs, dim, dtype)
    for value in (0.2, 0.004):
        temperature = torch.tensor(value, device="cuda")
        truth, ours = exact(*views, temperature), fused(*views, temperature)
        unit = 2**-7 if dtype == torch.bfloat16 else 2**-10 if dtype == torch.float16 else 8 * EPS
        # half rows are rounded once before the products, and the gradient once after
        # a few long features round all in one direction
        share = max(0.1, 0.5 * dim**-0.5) if dtype != torch.float32 else 1.0
        known = unit * (1 + share / value)
        torch.testing.assert_close(ours[0].double(), truth[0], rtol=known, atol=known)
        if truth[1].norm() > 1e-6:
            assert relative_error(ours[1], truth[1]) <= known


@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32", "bf16", "auto"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_precision_of_float32(precision: str, temperature: float) -> None:
    views = cuda_views("random", 512, 128, torch.float32)
    tau = torch.tensor(temperature, device="cuda")
    truth, ours = exact(*views, tau), fused(*views, tau, precision=precision)
    # the products' unit roundoff, amplified by 1 / tau
    roundoff = {"ieee": 2**-24, "auto": 2**-24, "tf32x3": 2**-20, "tf32": 2**-11, "bf16": 2**-8}[precision]
    # in full precision the device's exp2 and division count, too
    room = 2 if precision in ("ieee", "auto") else 1
    assert relative_error(ours[0], truth[0]) <= room * 2 * roundoff / temperature
    assert relative_error(ours[1], truth[1]) <= room * 4 * roundoff / temperature


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_auto_follows_the_matmul_precision(setting: str) -> None:
    views = cuda_views("random", 300, 64, torch.float32)
    explicit = nt_xent(*views, 0.1, precision={"highest": "ieee", "high": "tf32", "medium": "bf16"}[setting])
    try:
        torch.set_float32_matmul_precision(setting)
        followed = nt_xent(*views, 0.1)
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(followed, explicit, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "temperature"), [("random", 0.5), ("random", 0.1), ("close", 0.1), ("close", 0.5)])
def test_bf16_gradient_error_is_a_quarter_of_plain(kind: str, temperature: float) -> None:
    views = cuda_views(kind, 1024, 128, torch.bfloat16)
    tau = torch.tensor(temperature, device="cuda")
    plain = rows_and_gradients(plain_nt_xent_cuda, *views, tau.bfloat16())
    truth = exact(*views, tau)
    assert relative_error(fused(*views, tau)[1], truth[1]) <= relative_error(plain[1], truth[1]) / 4


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.002, 0.1, -0.3])
@pytest.mark.parametrize("learnable", [False, True])
def test_temperature_forms(temperature: float, normalize: bool, learnable: bool) -> None:
    z0, z1 = cuda_views("far", 70, 20, torch.float32)
    if not normalize:
        z0, z1 = z0 / 30, z1 / 30
    tau = torch.tensor(temperature, device="cuda", requires_grad=True)
    loss = nt_xent(z0.requires_grad_(), z1, tau if learnable else temperature, normalize=normalize, impl="triton")
    true_tau = tau.detach().double().requires_grad_()
    true_z0 = z0.detach().double().requires_grad_()
    truth = reference_nt_xent(true_z0, z1.double(), true_tau, normalize=normalize)
    loss.backward()
    truth.backward()
    torch.testing.assert_close(loss.double(), truth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z0.grad.double(), true_z0.grad, rtol=1e-3, atol=1e-3 * float(true_z0.grad.abs().max()))
    if learnable:
        torch.testing.assert_close(tau.grad.double(), true_tau.grad, rtol=1e-3, atol=1e-3 * float(true_tau.grad.abs()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stats(dtype: torch.dtype) -> None:
    views = cuda_views("far", 300, 40, dtype)
    loss, stats = nt_xent(*views, 0.1, return_stats=True, impl="triton")
    correct, entropy = nt_xent_stats(*(z.double() for z in views), 0.1)
    # rows whose best candidates are nearly equal may go either way
    assert (stats.accuracy - correct).abs().mean() <= 0.01
    torch.testing.assert_close(stats.entropy.double(), entropy, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(loss, nt_xent(*views, 0.1, impl="triton"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_deterministic_gives_the_same_bits(dtype: torch.dtype) -> None:
    views = [z.requires_grad_() for z in cuda_views("random", 3000, 128, dtype)]
    runs = []
    for _ in range(3):
        loss = nt_xent(*views, 0.1, deterministic=True, impl="triton")
        runs.append((loss, *torch.autograd.grad(loss, views)))
    for run in runs[1:]:
        assert all(torch.equal(first, again) for first, again in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("impl", ["triton", "blockwise"])
def test_one_rank_among_two(impl: str) -> None:
    """The rows of two ranks against the columns of both: the rectangular kernels with an offset."""
    pairs, tau = 150, torch.tensor(0.2, device="cuda")
    parts = [cuda_views("random", pairs, 48, torch.float32, seed) for seed in range(2)]
    rows = [contrast_op.ntxent_prologue(*part, True, "ieee", impl) for part in parts]
    columns = torch.cat([row[0] for row in rows])
    whole = [torch.cat(views) for views in zip(*parts, strict=True)]
    truth = exact(*whole, tau)[0].view(2, 2, pairs).transpose(0, 1).reshape(2, -1)
    for rank, (z, _, positive) in enumerate(rows):
        loss, *_ = contrast_op.ntxent_fwd(
            z, columns, positive, tau, rank * 2 * pairs, "runtime", "ieee", False, False, impl
        )
        torch.testing.assert_close(loss.double(), truth[rank], rtol=1e-5, atol=1e-5)
