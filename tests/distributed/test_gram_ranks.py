"""The Gram losses on 1, 2 and 4 gloo ranks against one process that has the whole batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from gram_ranks import LOSSES, gradient, make_batch, make_encoder, run_rank

WORLDS = [1, 2, 4]


@cache
def results(ranks: int) -> list[dict[str, Any]]:
    """What every rank found; a world is started once for all tests."""
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run_rank, (ranks, folder), nprocs=ranks)
        return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_same_loss_and_parameter_gradients_as_one_process(ranks: int, name: str, form: str) -> None:
    encoder = make_encoder()
    loss = LOSSES[name](impl="reference")(*(encoder(view.flatten(0, 1)) for view in make_batch(ranks)))
    loss.backward()
    exact = gradient(encoder)
    found = [result[f"{name}-{form}"] for result in results(ranks)]
    torch.testing.assert_close(torch.stack([value for value, _ in found]).mean(), loss.detach(), rtol=1e-10, atol=0)
    for _, mine in found:
        assert (mine - exact).norm() <= 1e-10 * exact.norm()


@pytest.mark.parametrize("ranks", WORLDS)
def test_backward_communicates_nothing(ranks: int) -> None:
    for result in results(ranks):
        for name in LOSSES:
            for form in ("primal", "dual"):
                forward, backward = result[f"{name}-{form}-collectives"]
                assert (forward > 0) == (ranks > 1) and backward == 0


@pytest.mark.parametrize("ranks", [2, 4])
def test_batches_that_differ_are_refused_on_every_rank(ranks: int) -> None:
    for result in results(ranks):
        assert "rank 0: [3, 8] torch.float32, rank 1: [4, 8] torch.float32" in result["uneven"]
