"""The online probe of two ranks against one process that has the whole batch."""

from __future__ import annotations

import pytest
import torch
from evaluate_cases import blobs
from forked import on_ranks
from torch import Tensor, distributed

from fastclr.evaluate import OnlineProbe


def two_steps() -> tuple[dict[str, Tensor], list[list[float]]]:
    """Take two steps on one's own rows; the ranks have different numbers of labelled images."""
    distributed.init_process_group("gloo")
    probe = OnlineProbe(8, 3)
    mine = distributed.get_rank()
    found = [probe.step(*(part.chunk(2)[mine] for part in unevenly(step))) for step in range(2)]
    return probe.state_dict(), [[float(x) for x in step] for step in found]


def unevenly(step: int) -> tuple[Tensor, Tensor]:
    h, labels = blobs(20, step, 1.0)
    labels[:7] = -1
    return h, labels


def test_two_ranks_are_one_process() -> None:
    alone = OnlineProbe(8, 3)
    expected = [[float(x) for x in alone.step(*unevenly(step))] for step in range(2)]
    for state, numbers in on_ranks(2, two_steps):
        torch.testing.assert_close(state["linear.weight"], alone.linear.weight.detach(), atol=1e-6, rtol=1e-5)
        assert numbers == [pytest.approx(step, rel=1e-5) for step in expected]
