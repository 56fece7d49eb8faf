"""The operator ``lse``: its blocks against the specification, and its contracts."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from row_cases import CASES
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from fastclr import CLIPLoss, InfoNCELoss, SupConLoss
from fastclr.bench import memory
from fastclr.losses import lse_op, lse_reference, tiles
from fastclr.losses.lse_op import LSEOptions, lse

KINDS = ("nothing", "self", "pair", "equal", "other")


def options(**changes: object) -> LSEOptions:
    return LSEOptions("blockwise", "fixed", "auto", False, None)._replace(**changes)


def unit(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype).requires_grad_()


@pytest.mark.parametrize("exclude", KINDS)
@pytest.mark.parametrize("columns", [None, 40, 7, 75])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("value", [-3.0, 4.0, 900.0])
@pytest.mark.parametrize("limited", [False, True])
def test_blocks_follow_the_specification(
    exclude: str, columns: int | None, both: bool, value: float, limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)
    if columns is None and (both or limited):
        pytest.skip("without columns there is one side, and no limit")
    if columns is not None and exclude == "pair":
        pytest.skip("the two views are stacked in one tensor")
    q, k = unit(40, 0), None if columns is None else unit(columns, 1)
    scale = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    ids = (torch.arange(40) % 4, torch.arange(columns or 40) % 4) if exclude in ("equal", "other") else None
    limit = torch.linspace(0, abs(value) / 2, 40, dtype=torch.float64) if limited else None
    leaves = [x for x in (q, k, scale) if x is not None]
    found = lse(q, k, scale, options(), exclude=exclude, ids=ids, limit=limit, both=both)
    exact = lse(q, k, scale, options(impl="reference"), exclude=exclude, ids=ids, limit=limit, both=both)
    weights = [torch.linspace(-1, 2, len(x), dtype=torch.float64) for x in exact]
    results = []
    for pair in (found, exact):
        # rows where nothing counts are -inf, without a gradient
        total = sum((x.masked_fill(x == -math.inf, 0.0) * w).sum() for x, w in zip(pair, weights, strict=True))
        results.append((*pair, *torch.autograd.grad(total, leaves)))
    tolerance = 1e-13 * (1 + abs(value))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * 10)


def test_reference_against_sums_written_out() -> None:
    q, k = unit(6, 0).detach(), unit(6, 1).detach()
    ids = torch.tensor([0, 1, 0, 2, 1, 3])
    rules = {
        "nothing": lambda i, j: True,
        "self": lambda i, j: i != j,
        "pair": lambda i, j: (i - j) % 3 != 0,
        "equal": lambda i, j: ids[i] != ids[j],
        "other": lambda i, j: ids[i] == ids[j] and i != j,
    }
    for exclude, rule in rules.items():
        mine = (ids, ids) if exclude in ("equal", "other") else (None, None)
        rows, columns = lse_reference.lse(q, k, torch.tensor(2.0), *mine, None, exclude)
        kept = torch.zeros(6, 6, dtype=torch.float64)
        for i, j in product(range(6), repeat=2):
            kept[i, j] = math.exp(2.0 * float(q[i] @ k[j])) if rule(i, j) else 0.0
        torch.testing.assert_close(rows, kept.sum(1).log())
        torch.testing.assert_close(columns, kept.sum(0).log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_opcheck(dtype: torch.dtype, symmetric: bool) -> None:
    q = unit(6, 0, dtype).detach()
    k = None if symmetric else unit(8, 1, dtype).detach()
    scale = torch.tensor(3.0, dtype=torch.float64)
    ids = (torch.arange(6) % 2, torch.arange(6 if symmetric else 8) % 2)
    pairs = (q, k, scale, *ids, None)
    forward = (*pairs, "equal", 0, not symmetric, "fixed", "auto", False, "blockwise")
    rows, columns = lse_op.lse_fwd(*forward)
    torch.library.opcheck(lse_op.lse_fwd, forward)
    terms = (None, None) if symmetric else (columns, torch.ones_like(columns))
    for wanted in ("q", "k", "both"):
        backward = (*pairs, rows, torch.ones_like(rows), *terms, "equal", 0, wanted, "fixed", "auto", "blockwise")
        torch.library.opcheck(lse_op.lse_bwd, backward)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_fake_tensors_run_the_whole_path(name: str, device: str) -> None:
    case = CASES[name]
    shapes = [tuple(x.shape) for x in case.make_inputs("random", 8, 5, torch.float32)]
    with FakeTensorMode():
        inputs = [torch.empty(shape, device=device, requires_grad=True) for shape in shapes]
        arguments = {
            key: torch.empty(x.shape, dtype=x.dtype, device=device) for key, x in case.arguments(inputs).items()
        }
        loss = case.kind(0.1, **case.options)(*inputs, **arguments)
        assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, device)
        if device == "cpu":
            loss.backward()
            assert [tuple(x.grad.shape) for x in inputs] == shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_compile_equals_eager(name: str) -> None:
    torch._dynamo.reset()
    case = CASES[name]
    loss = case.kind(0.3, **case.options, learnable_temperature=True)
    backend = "inductor" if name == "clip" else "aot_eager"
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=backend)
    for rows in (6, 9, 33):
        inputs = [x.requires_grad_() for x in case.make_inputs("random", rows, 4, torch.float32)]
        arguments = case.arguments(inputs)
        values = compiled(*inputs, **arguments), loss(*inputs, **arguments)
        grads = [torch.autograd.grad(value, [*inputs, loss.log_temperature]) for value in values]
        torch.testing.assert_close(*values)
        for mine, other in zip(*grads, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("loss", [CLIPLoss(learnable_temperature=True), InfoNCELoss()], ids=["clip", "info_nce"])
def test_compile_recompiles_at_most_once_for_sizes(loss: torch.nn.Module) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for rows in (4, 5, 6, 12, 40):
        compiled(unit(rows, 0), unit(rows, 1)).backward()
    assert counter.frame_count <= 2


def test_autocast_changes_nothing() -> None:
    for name in CASES:
        case = CASES[name]
        inputs = [x.requires_grad_() for x in case.make_inputs("random", 40, 32, torch.float32)]
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = case.ours(*inputs, tau=0.1)
            found.append((loss, *torch.autograd.grad(loss, inputs)))
        assert all(torch.equal(plain, cast) for plain, cast in zip(*found, strict=True)), name


def test_functional_transforms_are_refused_and_the_reference_has_them() -> None:
    a, b = (x.detach() for x in (unit(6, 0), unit(6, 1)))
    with pytest.raises(ValueError, match="impl='reference'"):
        torch.func.grad(lambda x: CLIPLoss()(x, b))(a)
    found = torch.func.grad(lambda x: CLIPLoss(impl="reference")(x, b))(a)
    leaf = a.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(CLIPLoss()(leaf, b), leaf)[0])


def test_export_is_refused_and_the_reference_keeps_its_gradient() -> None:
    a, b = unit(6, 0), unit(6, 1)
    with pytest.raises(Exception, match="impl='reference'"):
        torch.export.export(CLIPLoss(), (a, b))
    program = torch.export.export(CLIPLoss(impl="reference"), (a, b)).module()
    found, exact = (torch.autograd.grad(loss(a, b), (a, b)) for loss in (program, CLIPLoss()))
    for mine, other in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("loss", [CLIPLoss(0.1), CLIPLoss(0.001), InfoNCELoss(0.1)], ids=["fixed", "online", "rows"])
def test_memory_grows_as_rows_times_width(loss: torch.nn.Module) -> None:
    def peak(rows: int) -> int:
        inputs = [torch.randn(rows, 64, requires_grad=True) for _ in range(2)]
        loss(*inputs).backward()
        return memory.peak_bytes(lambda: loss(*inputs).backward())

    small, large = peak(1024), peak(4096)
    assert large < 3 * 2**20 + 14 * (2 * 4096 * 64 * 4)
    assert large < 5 * small


def test_sup_con_of_many_classes_needs_no_square_either() -> None:
    z, labels = torch.randn(6000, 32, requires_grad=True), torch.arange(6000) // 2
    for form in ("out", "in"):
        loss = SupConLoss(form=form)
        assert memory.peak_bytes(lambda loss=loss: loss(z, labels).backward()) < 3 * 2**20 + 20 * 6000 * 32 * 4
