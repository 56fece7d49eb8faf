"""Cached gradients on 2 and 4 gloo ranks against the direct step of one process that has the whole batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from cached_ranks import (
    MICRO_BATCHES,
    PAIRS,
    TEMPERATURE,
    WIDTH,
    grads,
    make_batches,
    make_encoder,
    make_loss,
    run_rank,
)
from forked import on_ranks

from fastclr.losses.contrast_reference import nt_xent

WORLDS = [2, 4]


@cache
def results(ranks: int) -> list[dict[str, Any]]:
    """The results of every rank; each world is started once for all tests."""
    return on_ranks(ranks, run_rank)


@pytest.mark.parametrize("micro_batch", MICRO_BATCHES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_same_loss_and_gradients_as_one_process(ranks: int, micro_batch: int) -> None:
    model, temperature = make_encoder(), make_loss()
    exact, values = [], []
    for views in make_batches(ranks).reshape(2, 2, ranks * PAIRS, WIDTH):
        value = nt_xent(model(views[0]), model(views[1]), temperature.temperature)
        value.backward()
        values.append(value.detach())
        exact.append(grads(model, temperature))
    assert temperature.temperature.item() == pytest.approx(TEMPERATURE)
    found = [result[f"cached {micro_batch}"] for result in results(ranks)]
    torch.testing.assert_close(torch.stack([first for first, *_ in found]).mean(), values[0], rtol=1e-10, atol=0)
    for _, *after in found:
        for ours, theirs in zip(after, exact, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert (a - b).norm() <= 1e-10 * b.norm()


@pytest.mark.parametrize("ranks", WORLDS)
def test_gradients_are_reduced_once(ranks: int) -> None:
    for result in results(ranks):
        assert result["cached reductions"] == result["direct reductions"] > 0


@pytest.mark.parametrize("ranks", WORLDS)
def test_running_statistics_are_broadcast_as_in_the_direct_step(ranks: int) -> None:
    for result in results(ranks):
        for ours, theirs in zip(result["cached buffers"], result["direct buffers"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_compiled_module_in_the_wrapper_and_not_the_other_way() -> None:
    for result in results(2):
        for ours, theirs in zip(result["compiled inside"], result["cached 3"][1], strict=False):  # without temperature
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
        for message in result["compiled outside"]:
            assert "DistributedDataParallel(torch.compile(model))" in message
