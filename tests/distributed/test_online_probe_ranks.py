"""The online probe of two ranks against one process that has the whole batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from evaluate_cases import blobs
from torch import Tensor, distributed, multiprocessing

from fastclr.evaluate import OnlineProbe


def rank(number: int, folder: str) -> None:
    """Take two steps on one's own rows; the ranks have different numbers of labelled images."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    probe = OnlineProbe(8, 3)
    found = [probe.step(*(part.chunk(2)[number] for part in unevenly(step))) for step in range(2)]
    numbers = [[float(x) for x in step] for step in found]
    torch.save((probe.state_dict(), numbers), f"{folder}/{number}.pt")
    distributed.destroy_process_group()
    os._exit(0)  # threads of torch may outlive the interpreter and abort it


def unevenly(step: int) -> tuple[Tensor, Tensor]:
    h, labels = blobs(20, step, 1.0)
    labels[:7] = -1
    return h, labels


@pytest.mark.slow  # two processes that import torch
def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    alone = OnlineProbe(8, 3)
    expected = [[float(x) for x in alone.step(*unevenly(step))] for step in range(2)]
    for number in range(2):
        state, numbers = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        torch.testing.assert_close(state["linear.weight"], alone.linear.weight.detach(), atol=1e-6, rtol=1e-5)
        assert numbers == [pytest.approx(step, rel=1e-5) for step in expected]
