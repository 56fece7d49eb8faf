"""The losses on ``lse`` and ``softplus_pairs`` on a CUDA device, against their specification in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loss_cases import make_views, relative_error
from row_cases import CASES, RowCase
from torch import Tensor, nn

from fastclr import CLIPLoss, MarginTripletLoss, NTLogisticLoss, SigLIPLoss, SupConLoss
from fastclr.losses import lse_op, softplus_op

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICE = "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
UNIT = {torch.float32: 2**-20, torch.float16: 2**-10, torch.bfloat16: 2**-7}
PAIR_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "siglip": lambda **o: SigLIPLoss(10.0, -5.0, learnable=True, **o),
    "logistic": lambda **o: NTLogisticLoss(0.3, learnable_temperature=True, **o),
    "logistic both": lambda **o: NTLogisticLoss(0.3, negatives="both_views", **o),
    "logistic mined": lambda **o: NTLogisticLoss(0.3, mining="semi_hard", **o),
    "triplet": lambda **o: MarginTripletLoss(0.4, mining="none", **o),
}


def outcome(loss_of: nn.Module, inputs: list[Tensor], **arguments: Tensor) -> list[Tensor]:
    """Loss, and the gradients of inputs and parameters, with unequal weights where there is a loss per row."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    loss = loss_of(*leaves, **arguments)
    weight = torch.linspace(0.5, 1.5, loss.numel(), device=loss.device, dtype=loss.dtype).reshape(loss.shape)
    grads = torch.autograd.grad((loss * weight).sum(), [*leaves, *loss_of.parameters()])
    return [loss.detach(), torch.cat([g.flatten() for g in grads[: len(leaves)]]), *grads[len(leaves) :]]


def check(make: Callable[..., nn.Module], inputs: list[Tensor], known: float, **arguments: Tensor) -> None:
    truth = outcome(make(impl="reference").to(DEVICE, torch.float64), [x.double() for x in inputs], **arguments)
    ours = outcome(make(impl="triton").to(DEVICE), inputs, **arguments)
    for mine, true in zip(ours, truth, strict=True):
        smallest = torch.finfo(mine.dtype).tiny * mine.numel() ** 0.5
        assert relative_error(mine, true) <= known or (mine.double() - true).norm() <= smallest


def row_case(
    case: RowCase, n: int, d: int, dtype: torch.dtype, kind: str = "random"
) -> tuple[list[Tensor], dict[str, Tensor]]:
    inputs = case.make_inputs(kind, n, d, dtype)
    return [x.to(DEVICE) for x in inputs], {k: x.to(DEVICE) for k, x in case.arguments(inputs).items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(33, 24), (131, 128), (300, 200), (150, 1024), (67, 2048)])
@pytest.mark.parametrize("name", CASES)
def test_row_losses(name: str, n: int, d: int, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs, arguments = row_case(case, n, d, dtype)
    for tau in (0.05, 0.5):

        def make(impl: str, tau: float = tau) -> nn.Module:
            loss: nn.Module = case.kind(tau, learnable_temperature=True, impl=impl, **case.options)
            return loss

        check(make, inputs, UNIT[dtype] * (8 + 2 / tau), **arguments)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(33, 24), (131, 128), (300, 200), (150, 1024), (67, 2048)])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses(name: str, n: int, d: int, dtype: torch.dtype, reduction: str) -> None:
    views = [x.to(DEVICE) for x in make_views("random", n, d, dtype)]
    # the hinge jumps where rounding moves a similarity over it
    known = UNIT[dtype] * (16 if "triplet" not in name else 256)
    check(lambda impl: PAIR_LOSSES[name](impl=impl, reduction=reduction), views, known)


@pytest.mark.parametrize("kind", ["equal", "opposite", "zeros"])
@pytest.mark.parametrize("tau", [0.001, 10.0])
def test_degenerate_rows_stay_finite(kind: str, tau: float) -> None:
    rows = torch.randn(1, 96, device=DEVICE).expand(130, 96).clone()
    second = {"equal": rows, "opposite": -rows, "zeros": 0 * rows}[kind].clone()
    for loss_of in (CLIPLoss(tau), NTLogisticLoss(tau), SigLIPLoss(1 / tau), SupConLoss(tau)):
        arguments = {"labels": torch.arange(130, device=DEVICE) % 3} if isinstance(loss_of, SupConLoss) else {}
        inputs = [rows] if arguments else [rows, second]
        assert all(torch.isfinite(x).all() for x in outcome(loss_of.to(DEVICE), inputs, **arguments))


@pytest.mark.parametrize("name", ["clip", "sup_con out", "siglip", "logistic both"])
def test_deterministic_and_without_waiting(name: str) -> None:
    case = CASES.get(name)
    if case is not None:
        inputs, arguments = row_case(case, 700, 64, torch.bfloat16)
        loss_of = case.kind(0.1, deterministic=True, **case.options)
    else:
        inputs, arguments = [x.to(DEVICE) for x in make_views("random", 700, 64, torch.bfloat16)], {}
        loss_of = PAIR_LOSSES[name](deterministic=True).to(DEVICE)
    first = outcome(loss_of, inputs, **arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = outcome(loss_of, inputs, **arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(mine, again) for mine, again in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_compile_equals_eager(name: str) -> None:
    torch._dynamo.reset()
    loss_of = CLIPLoss(0.1) if name == "clip" else SigLIPLoss()
    compiled = torch.compile(loss_of, fullgraph=True, dynamic=True)
    for n in (64, 100, 333):
        views = [x.to(DEVICE) for x in make_views("random", n, 64, torch.float32)]
        for mine, eager in zip(outcome(compiled, views), outcome(loss_of, views), strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: CLIPLoss(0.1), lambda: SigLIPLoss()], ids=["clip", "siglip"])
def test_memory_grows_as_rows_times_width(make: Callable[[], nn.Module]) -> None:
    peaks = []
    for n in (4096, 16_384):
        views = [torch.randn(n, 128, device=DEVICE, dtype=torch.bfloat16) for _ in range(2)]
        outcome(make(), views)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outcome(make(), views)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 4.5 * peaks[0]
    assert peaks[1] < 16_384**2  # half a matrix in bf16


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["lse", "softplus_pairs"])
def test_columns_beyond_32_bit_offsets(operator: str) -> None:
    """A few rows against so many columns that their elements need 64-bit offsets."""
    rows, dim, columns = 64, 2048, 2**20 + 256
    q = torch.nn.functional.normalize(torch.randn(rows, dim, device=DEVICE), dim=1)
    k = torch.empty(columns, dim, dtype=torch.bfloat16, device=DEVICE).normal_().mul_(dim**-0.5)
    scale, bias = torch.tensor(5.0, device=DEVICE), torch.tensor(-3.0, device=DEVICE)
    parts = k.split(2**16)
    exact = torch.cat([q.bfloat16().float() @ part.float().T for part in parts], dim=1).double() * 5
    if operator == "lse":
        found, _ = lse_op.lse_fwd(q, k, scale, None, None, None, "nothing", 0, False, "fixed", "bf16", False, "triton")
        expected = exact.logsumexp(1)
    else:
        found, *_ = softplus_op.softplus_op(
            q, k, scale, bias, None, None, None, "all", 0, False, "softplus", "bf16", 1, "triton"
        )
        expected = torch.nn.functional.softplus(exact - 3).sum(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
