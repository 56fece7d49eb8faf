"""The gate of the benchmarks of losses that compare rows: its truth against fastclr's references, what it refuses."""

from __future__ import annotations

import pytest
import torch

from fastclr.bench import contrast
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import WrongResultError
from fastclr.bench.timing import Effort
from fastclr.losses import CLIPLoss, MultipleNegativesLoss, SigLIPLoss, SupConLoss

CPU = torch.device("cpu")
CASES = list({case.loss: case.toy() for case in contrast.cases(CPU)}.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.loss)
def test_the_truth_is_the_reference(case: contrast.ContrastCase) -> None:
    leaves = [leaf.detach().double().requires_grad_() for leaf in case.leaves()]
    references = {
        "clip": CLIPLoss(impl="reference"),
        "siglip": SigLIPLoss(impl="reference"),
        "sup_con": lambda features: SupConLoss(contrast.TAU, impl="reference")(features, case.labels),
        "multiple_negatives": MultipleNegativesLoss(1 / contrast.SCALE, impl="reference"),
    }
    loss = references[case.loss](*leaves)
    value, gradients = case.truth
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)
    for mine, exact in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.loss)
def test_every_contestant_passes_the_gate_or_is_not_installed(case: contrast.ContrastCase) -> None:
    names = tuple(each.name for each in contrast.contestants(case))
    rows = case.run(Ceilings(CPU, toy=True), Effort(1.0, toy=True), names)
    statuses = {row.provider: row.status for row in rows}
    optional = {name: statuses.pop(name) for name in ("open_clip", "sentence-transformers") if name in statuses}
    assert set(statuses.values()) == {"ok"} and set(optional.values()) <= {"ok", "not installed"}


def test_the_gate_refuses_a_scale_without_gradient() -> None:
    case = CASES[0]
    with pytest.raises(WrongResultError, match="gradient 2"):
        contrast.attempt(case, lambda x, y, scale: contrast.definition(case)(x, y, scale.detach())).check()
