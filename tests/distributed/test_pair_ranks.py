"""Gram losses and losses of pairs on 1, 2 and 4 gloo ranks against one process that has the whole batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from forked import on_ranks
from pair_ranks import LOSSES, PEERS, Model, gradient, make_batch, run_rank

WORLDS = [1, 2, 4]


@cache
def results(ranks: int) -> list[dict[str, Any]]:
    """What every rank found; a world is started once for all tests."""
    return on_ranks(ranks, run_rank)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_same_loss_and_parameter_gradients_as_one_process(ranks: int, name: str) -> None:
    model = Model(LOSSES[name](impl="reference")).double()
    loss = model(*(view.flatten(0, 1) for view in make_batch(ranks)))
    loss.backward()
    exact = gradient(model)
    found = [result[name] for result in results(ranks)]
    values = torch.stack([value for value, _ in found])
    value = values.sum() if name.endswith("sum") else values.mean()
    torch.testing.assert_close(value, loss.detach(), rtol=1e-10, atol=0)
    for _, mine in found:
        assert (mine - exact).norm() <= 1e-10 * exact.norm()


@pytest.mark.parametrize("ranks", WORLDS)
def test_backward_communicates_nothing(ranks: int) -> None:
    for result in results(ranks):
        for name in LOSSES:
            forward, backward = result[f"{name}-collectives"]
            assert (forward > 0) == (ranks > 1) and backward == 0, name


@pytest.mark.parametrize("ranks", [2, 4])
def test_batches_that_differ_are_refused_on_every_rank(ranks: int) -> None:
    for result in results(ranks):
        for name in LOSSES:
            assert "rank 0: [3, 8] torch.float32, rank 1: [4, 8] torch.float32" in result["uneven"][name]
            assert "rank 0: [0, 8] torch.float32, rank 1: [3, 8] torch.float32" in result["empty"][name]


@pytest.mark.parametrize("ours", [name for name in PEERS if name.startswith("our-")])
@pytest.mark.parametrize("ranks", WORLDS)
def test_drop_ins_equal_what_they_replace(ranks: int, ours: str) -> None:
    theirs = ours.removeprefix("our-") if "solo" in ours else ours.replace("our", "lightly")
    values = torch.stack([torch.stack([result[name][0] for name in (ours, theirs)]) for result in results(ranks)])
    # the value of a rank may cover its own rows only, where the original's covers all
    torch.testing.assert_close(values.mean(0)[0], values.mean(0)[1], rtol=1e-10, atol=0)
    for result in results(ranks):
        assert (result[ours][1] - result[theirs][1]).norm() <= 1e-10 * result[theirs][1].norm()
