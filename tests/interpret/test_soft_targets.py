"""BLIP's soft targets and exclusion by ids through the kernels of ``lse``, against the specification in float64."""

from __future__ import annotations

import pytest
import torch
from loss_cases import relative_error
from row_cases import CASES


@pytest.mark.parametrize("name", ["blip", "blip by id", "clip by id", "info_nce by id"])
def test_kernels_against_the_reference(name: str) -> None:
    case = CASES[name]
    inputs = case.make_inputs("random", 21, 16, torch.float32)
    found = []
    for impl, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        loss = case.ours(*leaves, tau=0.2, impl=impl, precision="ieee")
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for mine, exact in zip(*found, strict=True):
        assert relative_error(mine, exact) <= 4e-6
