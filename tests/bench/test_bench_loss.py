"""The gate of the loss benchmarks: its closed forms against autograd, and what it accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.bench import loss_peers
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_cases import LossCase, cases, exact
from fastclr.bench.rows import WrongResultError
from fastclr.bench.suite import Joined
from fastclr.bench.timing import Effort

CPU = torch.device("cpu")


def clip_by_definition(x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / tau
    return (-logits.log_softmax(1).diagonal().mean() - logits.log_softmax(0).diagonal().mean()) / 2


def ntxent_by_definition(x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    z = F.normalize(torch.cat([x, y]), dim=1)
    total = z.new_zeros(())
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positive = others.index((i + len(x)) % len(z))
        total = total - (z[others] @ z[i] / tau).log_softmax(0)[positive]
    return total / len(z)


@pytest.mark.parametrize("layout", ["ntxent", "clip"])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_closed_forms_agree_with_autograd_of_the_definitions(
    layout: str, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastclr.bench.loss_cases.BLOCK_BYTES", 8 * 22 * 4)  # several blocks
    generator = torch.Generator().manual_seed(3)
    views = [(2 * torch.rand(11, 5, generator=generator).double() - 1).requires_grad_() for _ in range(2)]
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    definition = ntxent_by_definition if layout == "ntxent" else clip_by_definition
    loss = definition(*views, temperature)
    loss.backward()
    truth = exact([v.detach() for v in views], tau, layout, count=4)  # type: ignore[arg-type]
    assert truth.loss == pytest.approx(float(loss), rel=1e-12)
    assert truth.temperature == pytest.approx(float(temperature.grad), rel=1e-10)
    assert len(truth.picked) == 4
    for view, gradient in zip(views, truth.gradients, strict=True):
        torch.testing.assert_close(gradient, view.grad[truth.picked], rtol=1e-10, atol=1e-14)


def without_mask(z0: Tensor, z1: Tensor, tau: float) -> Tensor:
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    return F.cross_entropy(z @ z.T / tau, torch.arange(len(z)).roll(len(z0)))


WRONG: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "twice the mean": lambda a, b, tau: 2 * loss_peers.dense(a, b, tau),
    "its own logit in the sum": without_mask,
    "one view without gradient": lambda a, b, tau: loss_peers.dense(a, b.detach(), tau),
    "another temperature": lambda a, b, tau: loss_peers.dense(a, b, 1.02 * tau),
    "not a number": lambda a, b, tau: loss_peers.dense(a, b, tau) * float("nan"),
}


@pytest.mark.parametrize("what", WRONG)
def test_gate_refuses_other_gradients(what: str) -> None:
    case = LossCase(64, 16)
    with pytest.raises(WrongResultError, match="gradient"):
        loss_peers.attempt(case, WRONG[what], "ntxent").check()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_gate_passes_the_definition_and_fastclr_in_every_precision(dtype: str) -> None:
    case = LossCase(64, 16, dtype)
    for loss_of in (loss_peers.dense, loss_peers.fastclr(case)):
        if dtype == "float64" and loss_of is loss_peers.dense:
            continue  # it computes its softmax in float32
        assert loss_peers.attempt(case, loss_of, "ntxent").check() is not None


def test_gradient_of_the_temperature_is_checked_too() -> None:
    case = LossCase(64, 16, learnable=True)
    assert loss_peers.attempt(case, loss_peers.fastclr(case), "ntxent").check() is not None
    with pytest.raises(WrongResultError, match="temperature"):
        loss_peers.attempt(case, lambda a, b, tau: loss_peers.dense(a, b, tau.detach()), "ntxent").check()


def test_every_contestant_gets_a_row_that_says_what_became_of_it() -> None:
    case = LossCase(64, 16, layout="clip")
    rows = {
        row.provider: row for row in Joined(case).run(Ceilings(CPU, toy=True), Effort(toy=True), skip_compile(case))
    }
    assert rows["fastclr"].status == rows["pytorch"].status == "ok"
    assert rows["fastclr"].stages.keys() == {"forward", "backward"}
    assert rows["pytorch"].error is not None and rows["pytorch"].error < 1e-5
    for name in ("memeff", "inf-cl", "cut-cross-entropy", "open_clip"):
        assert rows[name].status in ("not installed", "unsuitable", "ok"), rows[name]
        assert rows[name].note or rows[name].time


def skip_compile(case: LossCase) -> tuple[str, ...]:
    """All but torch.compile, which is slow and runs in the benchmarks."""
    return tuple(c.name for c in loss_peers.contestants(case) if "compile" not in c.name)


def test_a_computation_that_would_take_the_host_down_is_not_tried() -> None:
    case = LossCase(2**20)
    named = ("pytorch-metric-learning", "lightly", "solo-learn")
    rows = Joined(case).run(Ceilings(CPU, toy=True), Effort(toy=True), named)
    assert [row.status for row in rows] == ["out of memory"] * 3
    assert all("GiB" in row.note for row in rows)


def test_floor_is_the_slowest_of_products_exponentials_and_bytes() -> None:
    rates = {"float32 flops": 1e12, "exponentials": 1e11, "copy bytes": 1e10}
    case = LossCase(1000, 100)
    assert case.floor_s(Ceilings(CPU, rates=dict(rates))) == pytest.approx(6 * 1000**2 * 100 / 1e12)
    slow = rates | {"exponentials": 1e8}
    assert case.floor_s(Ceilings(CPU, rates=slow)) == pytest.approx(2 * 1000**2 / 1e8)
    slow = rates | {"copy bytes": 1e5}
    assert case.floor_s(Ceilings(CPU, rates=slow)) == pytest.approx(3 * 4 * 1000 * 100 / 1e5)
    clip = LossCase(1000, 100, layout="clip")
    assert clip.floor_s(Ceilings(CPU, rates=rates)) == pytest.approx(8 * 1000**2 * 100 / 1e12)


def test_cases_have_names_of_their_own_and_reach_a_million_rows_on_a_gpu() -> None:
    for kind in ("cpu", "cuda"):
        found = cases(torch.device(kind))
        assert len({case.name for case in found}) == len(found)
    on_gpu = cases(torch.device("cuda"))
    assert {128, 2**20} <= {case.rows for case in on_gpu} and {64, 2048} <= {case.dim for case in on_gpu}
    assert {case.dtype for case in on_gpu} >= {"bfloat16", "float16", "float32", "tf32"}
