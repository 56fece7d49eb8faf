"""The loss at run time on CUDA: no synchronisation, graphs, streams, compile, autocast, a million rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from loss_cases import make_views, relative_error
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import contrast_op
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
MIB = 2**20


def cuda_leaves(pairs: int, dim: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    base = torch.randn(pairs, dim, device=device, generator=generator)
    views = [base + torch.randn(base.shape, device=device, generator=generator) for _ in range(2)]
    return [view.to(dtype).requires_grad_() for view in views]


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "loss_of",
    [
        NTXentLoss(0.1),
        NTXentLoss(0.001),
        NTXentLoss(0.1, learnable_temperature=True),
        NTXentLoss(0.1, normalize=False, reduction="none"),
        NTXentLoss(0.1, deterministic=True),
        NTXentLoss(0.1, memory_bank_size=(1024, 64)),
        NTXentLoss(0.1, impl="blockwise"),
        NTXentLoss(0.1, impl="blockwise", learnable_temperature=True),
    ],
    ids=["fixed", "online", "learnable", "none", "deterministic", "bank", "blockwise", "blockwise learnable"],
)
def test_never_waits_for_the_device(loss_of: NTXentLoss, request: pytest.FixtureRequest) -> None:
    loss_of, leaves = loss_of.cuda(), cuda_leaves(256, 64)
    loss_of(*leaves).sum().backward()  # compiles the kernels, which may wait
    request.getfixturevalue("waiting_is_an_error")
    loss_of(*leaves).sum().backward()


def test_cuda_graph_capture_and_replay() -> None:
    loss_of = NTXentLoss(0.1, learnable_temperature=True).cuda()
    leaves = cuda_leaves(512, 128)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            loss_of(*leaves).backward()
    torch.cuda.current_stream().wait_stream(stream)
    inputs = [*leaves, loss_of.log_temperature]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = loss_of(*leaves)
        grads = torch.autograd.grad(loss, inputs)
    for _ in range(3):
        with torch.no_grad():
            for leaf in inputs:
                leaf.add_(0.1 * torch.randn_like(leaf))
        graph.replay()
        expected = loss_of(*leaves)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for replayed, eager in zip(grads, torch.autograd.grad(expected, inputs), strict=True):
            assert relative_error(replayed, eager.double()) < 1e-3


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compile_equals_eager(dtype: torch.dtype, learnable: bool) -> None:
    torch._dynamo.reset()
    loss_of = NTXentLoss(0.1, learnable_temperature=learnable).cuda()
    compiled = torch.compile(loss_of, fullgraph=True, dynamic=True)
    for pairs in (64, 100, 333):
        leaves = cuda_leaves(pairs, 64, dtype)
        ours, expected = compiled(*leaves), loss_of(*leaves)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        for mine, eager in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-2, atol=1e-5)


def test_autocast_takes_the_dtype_of_the_inputs() -> None:
    model = torch.nn.Linear(32, 64).cuda()
    points = torch.randn(200, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        z0, z1 = model(points), model(points + 0.1)
        loss = nt_xent(z0, z1, 0.1)
        single = nt_xent(z0.float(), z1.float(), 0.1)
    assert loss.dtype == single.dtype == torch.float32
    loss.backward()
    torch.testing.assert_close(loss, nt_xent(z0, z1, 0.1))
    torch.testing.assert_close(single, nt_xent(z0.float(), z1.float(), 0.1))
    exact = reference_nt_xent(z0.double(), z1.double(), 0.1)
    assert abs(single.item() - exact.item()) <= 1e-5 * abs(exact.item())


def test_grad_scaler_range() -> None:
    """float16 gradients survive GradScaler's scaling of the loss."""
    leaves = cuda_leaves(4096, 128, torch.float16)
    grads = torch.autograd.grad(nt_xent(*leaves, 0.5) * 2.0**16, leaves)
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = torch.autograd.grad(reference_nt_xent(*double, 0.5) * 2.0**16, double)
    assert relative_error(torch.cat(grads), torch.cat(truth)) < 2e-3


def test_current_stream_is_used() -> None:
    leaves = cuda_leaves(2048, 128)
    expected = nt_xent(*leaves, 0.1)
    grads = torch.autograd.grad(expected, leaves)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        doubled = [(2 * leaf.detach()).requires_grad_() for leaf in leaves]
        loss = nt_xent(*doubled, 0.1)
        late = torch.autograd.grad(loss, doubled)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    for mine, other in zip(late, grads, strict=True):
        torch.testing.assert_close(2 * mine, other, rtol=2e-2, atol=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_device_that_is_not_current() -> None:
    with torch.cuda.device(0):
        leaves = cuda_leaves(200, 64, device="cuda:1")
        loss = nt_xent(*leaves, 0.1)
        loss.backward()
    exact = reference_nt_xent(*(leaf.detach().double() for leaf in leaves), 0.1)
    assert loss.device == torch.device("cuda:1")
    assert abs(loss.item() - exact.item()) < 1e-2


def extra_bytes(leaves: list[Tensor], loss_of: NTXentLoss) -> int:
    """Peak memory of a forward and backward, beyond the inputs and earlier allocations."""
    loss_of(*leaves).backward()
    for leaf in leaves:
        leaf.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss_of(*leaves).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_memory_grows_as_rows_times_width() -> None:
    small, large = (extra_bytes(cuda_leaves(pairs, 128), NTXentLoss(0.1)) for pairs in (8192, 32_768))
    assert large <= 100 * MIB
    assert large <= 4.5 * small


@pytest.mark.slow
def test_a_million_rows() -> None:
    pairs, dim, tau = 2**19, 128, 0.1
    leaves = cuda_leaves(pairs, dim)
    assert extra_bytes(leaves, NTXentLoss(tau)) <= 2048 * MIB
    rows = nt_xent(*leaves, tau, reduction="none")
    unit = torch.nn.functional.normalize(torch.cat(leaves).detach().float(), dim=1)
    some = torch.tensor([0, 1, pairs - 1, pairs, 2 * pairs - 1], device="cuda")
    partner = (some + pairs) % (2 * pairs)
    scores = unit[some].double() @ unit.double().T / tau
    scores[torch.arange(5), some] = -torch.inf
    own = scores[torch.arange(5), partner]
    torch.testing.assert_close(rows[some].double(), scores.logsumexp(1) - own, rtol=1e-3, atol=1e-3)
    # the gradient of these rows, with the log-sum-exp of every other row from the losses
    lse = rows.double() + (unit * unit.roll(pairs, 0)).sum(1).double() / tau
    weight = (scores - lse[some, None]).exp() + (scores - lse).exp()
    weight[torch.arange(5), partner] -= 2
    pull = weight @ unit.double() / (tau * 2 * pairs)
    along = (pull * unit[some]).sum(1, keepdim=True) * unit[some]
    expected = (pull - along) / torch.cat(leaves).detach().double()[some].norm(dim=1, keepdim=True)
    grads = torch.cat(torch.autograd.grad(nt_xent(*leaves, tau), leaves))
    assert relative_error(grads[some], expected) < 2e-2


@pytest.mark.slow
def test_columns_beyond_32_bit_offsets() -> None:
    pairs, dim, columns = 64, 2048, 2**20 + 256
    z0, z1 = (z.cuda() for z in make_views("random", pairs, dim, torch.bfloat16))
    z, _, positive = contrast_op.ntxent_prologue(z0, z1, True, "ieee", "triton")
    every = torch.empty(columns, dim, dtype=torch.bfloat16, device="cuda").normal_().mul_(dim**-0.5)
    offset = columns - 2 * pairs
    every[offset:] = z
    tau = torch.tensor(0.1, device="cuda")
    loss, *_ = contrast_op.ntxent_fwd(z, every, positive, tau, offset, "runtime", "ieee", False, False, "triton")
    expected, *_ = contrast_op.ntxent_fwd(
        z.float(), every.float(), positive.double(), tau, offset, "runtime", "ieee", False, False, "blockwise"
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=1e-3)
