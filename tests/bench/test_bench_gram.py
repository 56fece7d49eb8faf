"""The gate of the benchmarks of Gram losses: its truth against the specification, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastclr.bench import gram
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import WrongResultError
from fastclr.bench.timing import Effort

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [case.toy() for case in gram.cases(CPU)[:2]], ids=lambda case: case.loss)
def test_the_truth_is_the_specification(case: gram.GramCase) -> None:
    views = [view.detach().double().requires_grad_() for view in case.views()]
    loss = gram.dense(case)(*views)
    value, gradient = case.truth
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)
    for mine, exact in zip(gradient, torch.autograd.grad(loss, views), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("case", [case.toy() for case in gram.cases(CPU)[:2]], ids=lambda case: case.loss)
def test_every_contestant_passes_the_gate(case: gram.GramCase) -> None:
    names = ("fastclr", "lightly", "pytorch-metric-learning", "pytorch")
    rows = case.run(Ceilings(CPU, toy=True), Effort(1.0, toy=True), names)
    statuses = {row.provider: row.status for row in rows}
    assert statuses.pop("pytorch-metric-learning") == ("ok" if case.loss == "vicreg" else "unsuitable")
    assert set(statuses.values()) == {"ok"}


def test_the_gate_refuses_a_wrong_gradient() -> None:
    case = gram.cases(CPU)[0].toy()

    def without_redundancy(z0: Tensor, z1: Tensor) -> Tensor:
        return gram.gram_reference.barlow_twins_terms(z0, z1)[0]

    with pytest.raises(WrongResultError, match="gradient"):
        gram.attempt(case, without_redundancy).check()
