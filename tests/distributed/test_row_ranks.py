"""The row-softmax losses on 1, 2 and 4 gloo ranks against one process that has the whole batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from forked import on_ranks
from row_ranks import LOSSES, Model, make_batch, run_rank

WORLDS = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


@cache
def results(ranks: int) -> list[dict[Any, Any]]:
    """What every rank found; a world is started once for all tests."""
    return on_ranks(ranks, run_rank)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_same_loss_and_parameter_gradients_as_one_process(ranks: int, name: str, reduction: str) -> None:
    first, second, hard, labels = make_batch(ranks)
    model = Model(name, reduction=reduction, impl="reference")
    if name == "multiple":
        # negative ids are numbered on every rank
        model.loss.register_forward_pre_hook(
            lambda _, inputs: (*inputs[:4], (torch.arange(hard.shape[1]) % 3).repeat(ranks))
        )
    loss = model(*(x.flatten(0, 1) for x in (first, second, hard, labels)))
    loss.backward()
    found = [result[name, reduction] for result in results(ranks)]
    values = torch.stack([value for value, _ in found])
    torch.testing.assert_close(
        values.mean() if reduction == "mean" else values.sum(), loss.detach(), rtol=1e-10, atol=0
    )
    for key, parameter in model.named_parameters():
        for _, gradients in found:
            assert (gradients[key] - parameter.grad).norm() <= 1e-10 * parameter.grad.norm(), key


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", WORLDS)
def test_backward_communicates_nothing(ranks: int, name: str) -> None:
    for result in results(ranks):
        forward, backward = result[name, "collectives"]
        assert (forward > 0) == (ranks > 1)
        assert backward == 0


def test_batches_that_differ_are_refused_on_every_rank() -> None:
    assert results(1)[0]["uneven"] == ""
    assert all("rank 0: [6, 5] torch.float32, rank 1: [7, 5]" in result["uneven"] for result in results(2))


@pytest.mark.parametrize("name", ["clip", "info_nce", "sup_con out", "dcl", "debiased", "multiple"])
def test_an_empty_batch_is_refused_on_every_rank(name: str) -> None:
    """If one rank raised alone, the others would wait for it; and no rank may have rows."""
    for result in results(2):
        some, none = result["empty", name]
        assert "not empty" in some and "rank 0: [0, 5] torch.float32, rank 1: [" in some
        assert "rank 0: [0, 5] torch.float32, rank 1: [0, 5]" in none
    for message in results(1)[0]["empty", name]:
        assert "N, D >= 1" in message or "without an empty side" in message
