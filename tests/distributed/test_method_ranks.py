"""Two and four ranks reach the state of one process: weights, twin and ring, in direct and in cached steps."""

from __future__ import annotations

import pytest
import torch
from forked import on_ranks
from method_ranks import CASES, train, train_all

States = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=["2 ranks", "4 ranks"])
def found(request: pytest.FixtureRequest) -> list[States]:
    return on_ranks(request.param, train_all)


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, torch.Tensor]]:
    """The state of one process, of each case once; cached gradients are those of the direct step."""
    return {case: train(case, micro_batch=None) for case in CASES}


@pytest.mark.filterwarnings("ignore:batch norm can leak")
@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_with_each_other_and_with_one_process(case: str, found: list[States], one: States) -> None:
    learnable = "learnable" in case or case == "simclr-dcl"
    expected = one[case]
    assert ("criterion.log_temperature" in expected) == learnable
    if learnable:
        assert abs(float(expected["criterion.log_temperature"].exp()) - 0.5) > 1e-4
    assert case.startswith("moco-v3") or ("ring.keys" in expected) == case.startswith("moco")
    for name, value in expected.items():
        first, *others = (rank[case][name] for rank in found)
        assert all(torch.equal(first, other) for other in others), name
        if value.is_floating_point():
            torch.testing.assert_close(first, value, rtol=1e-9, atol=1e-10, msg=name)
        else:
            assert torch.equal(first, value), name
