"""Two and four ranks reach the state of one process: both towers, temperature, twins and queues, cached or not."""

from __future__ import annotations

import math

import pytest
import torch
from forked import on_ranks
from text_ranks import CASES, DATA, train, train_all

# what the temperature starts from, by the name of its parameter
LEARNT = {
    "criterion.log_temperature": math.log(0.07),
    "criterion.log_scale": math.log(10),
    "criterion.tau": 0.07,
}
States = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=["2 ranks", "4 ranks"])
def found(request: pytest.FixtureRequest) -> list[States]:
    return on_ranks(request.param, train_all)


@pytest.fixture(scope="module")
def one() -> States:
    """The state of one process, of each case once; cached gradients are those of the direct step."""
    return {case: train(case, micro_batch=None) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_with_each_other_and_with_one_process(case: str, found: list[States], one: States) -> None:
    expected = one[case]
    assert any(name.startswith("text.") for name in expected)
    (learnt,) = LEARNT.keys() & expected.keys()
    assert abs(float(expected[learnt]) - LEARNT[learnt]) > 1e-3
    for name, value in expected.items():
        first, *others = (rank[case][name] for rank in found)
        assert all(torch.equal(first, other) for other in others), name
        if value.is_floating_point():
            torch.testing.assert_close(first, value, rtol=1e-9, atol=1e-10, msg=name)
        else:
            assert torch.equal(first, value), name


def test_captions_occur_more_than_once_so_that_the_mask_matters() -> None:
    captions = [texts[0] for texts in DATA.train.captions or ()]
    assert len(captions) == 64 and len(set(captions)) < 30
