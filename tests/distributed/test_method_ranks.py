"""Two ranks reach the state of one process, in direct and cached steps, with and without a learnable temperature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from method_ranks import CASES, run_rank, train

RANKS = 2


@pytest.fixture(scope="module")
def found(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[dict[str, torch.Tensor]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, (RANKS, str(folder), str(pictures)), nprocs=RANKS)
    yield [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"micro {m}, learnable {b}" for m, b in CASES])
def test_ranks_agree_with_each_other_and_with_one_process(
    index: int, found: list[list[dict[str, torch.Tensor]]], pictures: Path
) -> None:
    learnable = CASES[index][1]
    one = train(str(pictures), None, learnable)  # cached gradients are those of the direct step
    assert ("criterion.log_temperature" in one) == learnable
    start = 0.5
    if learnable:
        assert abs(float(one["criterion.log_temperature"].exp()) - start) > 1e-4
    for name, expected in one.items():
        ours, theirs = (rank[index][name] for rank in found)
        assert torch.equal(ours, theirs), name
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11, msg=name)
