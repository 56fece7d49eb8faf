"""The operator contracts: opcheck, FakeTensor, torch.compile, autocast, and differentiability exactly once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from loss_cases import make_views
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import contrast_op
from fastclr.losses.contrast_reference import nt_xent as reference_nt_xent
from fastclr.losses.inputs import matmul_precision

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def leaves(pairs: int = 6, dim: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    return [z.requires_grad_() for z in make_views("random", pairs, dim, dtype, seed)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_opcheck(dtype: torch.dtype, stats: bool, weighted: bool) -> None:
    z0, z1 = make_views("random", 6, 4, dtype)
    tau = torch.tensor(0.3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    prologue = (z0, z1, True, "auto", "blockwise")
    z, inv_norm, positive = contrast_op.ntxent_prologue(*prologue)
    forward = (z, z, positive, tau, 0, "fixed", "auto", False, stats, "blockwise")
    loss, lse, *_ = contrast_op.ntxent_fwd(*forward)
    weight = torch.ones_like(lse) if weighted else None
    scale = torch.ones((), dtype=loss.dtype)
    backward = (z0, z1, z, z, inv_norm, positive, loss, lse, weight, scale, tau, 0, True, "fixed", "auto", "blockwise")
    for operator, arguments in (
        (contrast_op.ntxent_prologue, prologue),
        (contrast_op.ntxent_fwd, forward),
        (contrast_op.ntxent_bwd, backward),
    ):
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fake_tensors_run_the_whole_path(dtype: torch.dtype, device: str) -> None:
    with FakeTensorMode():
        z0, z1 = (torch.empty(8, 5, dtype=dtype, device=device, requires_grad=True) for _ in range(2))
        loss, stats = nt_xent(z0, z1, 0.1, return_stats=True)
        assert loss.shape == () and stats.entropy.shape == (16,)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert loss.device.type == device
        if device == "cpu":
            loss.backward()
            assert z0.grad.shape == z1.grad.shape == (8, 5) and z0.grad.dtype == dtype


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("temperature", [0.001, 0.3, "learnable"])
def test_compile_equals_eager(temperature: float | str, reduction: str) -> None:
    torch._dynamo.reset()
    learnable = temperature == "learnable"
    loss = NTXentLoss(0.3 if learnable else temperature, learnable_temperature=learnable, reduction=reduction)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for pairs in (6, 9, 33):
        parameters = list(loss.parameters())
        inputs = leaves(pairs)
        rows, expected = compiled(*inputs), loss(*inputs)
        weight = torch.linspace(0, 1, rows.numel()).view_as(rows) + 1
        grads = [torch.autograd.grad(value, inputs + parameters, weight) for value in (rows, expected)]
        torch.testing.assert_close(rows, expected)
        for mine, other in zip(*grads, strict=True):
            torch.testing.assert_close(mine, other)


def test_compile_recompiles_at_most_once_for_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(nt_xent, fullgraph=True, backend=counter)
    for pairs in (4, 5, 6, 7, 12, 40):
        loss = compiled(*leaves(pairs), 0.2)
        loss.backward()
    assert counter.frame_count <= 2


def test_compile_returns_statistics() -> None:
    torch._dynamo.reset()
    inputs = leaves()
    compiled = torch.compile(lambda a, b: nt_xent(a, b, 0.2, return_stats=True), fullgraph=True)
    (loss, stats), (expected, expected_stats) = compiled(*inputs), nt_xent(*inputs, 0.2, return_stats=True)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(stats.entropy, expected_stats.entropy)


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
@pytest.mark.parametrize("bank", [0, (16, 32)], ids=["batch", "bank"])
def test_autocast_changes_nothing(impl: str, bank: object) -> None:
    if bank and impl == "reference":
        pytest.skip("a memory bank runs blockwise only")
    inputs = leaves(40, 32)
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        loss_of = NTXentLoss(0.1, bank, impl=impl)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = loss_of(*inputs)
            # PyTorch's own backward of the reference under autocast is not ours to test
            grads = torch.autograd.grad(loss, inputs) if impl == "blockwise" else ()
        assert loss.dtype == torch.float32
        results.append((loss, *grads))
    assert all(torch.equal(plain, cast) for plain, cast in zip(*results, strict=True))


def test_autocast_model_gives_half_inputs_and_takes_half_gradients() -> None:
    model = torch.nn.Linear(8, 4)
    images = torch.randn(12, 8)
    with torch.autocast("cpu", torch.bfloat16):
        z0, z1 = model(images), model(images + 0.3)
        assert z0.dtype == torch.bfloat16
        loss = nt_xent(z0, z1, 0.2)
    grad = torch.autograd.grad(loss, z0)[0]
    exact = z0.detach().double().requires_grad_()
    expected = torch.autograd.grad(reference_nt_xent(exact, z1.detach().double(), 0.2), exact)[0]
    assert loss.dtype == torch.float32 and grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.double(), expected, rtol=2**-7, atol=1e-5)


def test_double_backward_is_refused_and_the_reference_has_it() -> None:
    inputs = leaves()
    (grad,) = torch.autograd.grad(nt_xent(*inputs), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once.*impl='reference'"):
        grad.square().sum().backward()
    (grad,) = torch.autograd.grad(nt_xent(*inputs, impl="reference"), inputs[0], create_graph=True)
    grad.square().sum().backward()
    assert inputs[0].grad.any()


def test_create_graph_gives_the_same_first_derivative() -> None:
    inputs = leaves()
    plain, graphed = (torch.autograd.grad(nt_xent(*inputs), inputs, create_graph=flag) for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, graphed, strict=True))


def test_import_takes_no_triton_and_no_cuda() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch, fastclr;"
        "z = torch.randn(4, 3); fastclr.nt_xent(z, z);"
        "assert not torch.cuda.is_initialized();"
        "print([m for m in ('torchvision', 'timm', 'nvidia.dali') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_global_precision_can_be_compiled() -> None:
    """This is the path of float32 CUDA tensors: Dynamo cannot trace torch's own function."""

    def doubled(x: Tensor) -> Tensor:
        return 2 * x if matmul_precision("auto", x.dtype) == "ieee" else x

    compiled = torch.compile(doubled, fullgraph=True, backend="eager")
    x = torch.ones(3)
    try:
        assert compiled(x).sum() == 6
        torch.set_float32_matmul_precision("high")
        assert compiled(x).sum() == 3
    finally:
        torch.set_float32_matmul_precision("highest")
