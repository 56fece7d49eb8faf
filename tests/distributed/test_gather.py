"""1, 2 and 4 gloo ranks against one process that has the whole batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from forked import on_ranks
from ranks import DIM, PAIRS, TEMPERATURE, Model, gradients, make_batch, run_rank
from torch import Tensor

from fastclr.losses.contrast_reference import nt_xent, nt_xent_stats

WORLDS = [1, 2, 4]


@cache
def results(ranks: int) -> list[dict[str, Any]]:
    """The results of every rank; each world is started once for all tests."""
    return on_ranks(ranks, run_rank)


def whole_batch(ranks: int) -> list[Tensor]:
    return [view.reshape(ranks * PAIRS, -1) for view in make_batch(ranks)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ranks", WORLDS)
def test_same_loss_and_parameter_gradients_as_one_process(ranks: int, reduction: str) -> None:
    model = Model().double()
    first, second = (view.double() for view in whole_batch(ranks))
    loss = nt_xent(model.encoder(first), model.encoder(second), model.loss.temperature, reduction=reduction)
    loss.backward()
    found = results(ranks)
    values = torch.stack([result[reduction][0] for result in found])
    torch.testing.assert_close(
        values.mean() if reduction == "mean" else values.sum(), loss.detach(), rtol=1e-10, atol=0
    )
    for result in found:
        for name, exact in gradients(model).items():
            assert (result[reduction][1][name] - exact).norm() <= 1e-10 * exact.norm(), name


@pytest.mark.parametrize("ranks", WORLDS)
def test_backward_communicates_nothing(ranks: int) -> None:
    for result in results(ranks):
        forward, backward = result["collectives"]
        assert (forward > 0) == (ranks > 1)
        assert backward == 0


@pytest.mark.parametrize("ranks", WORLDS)
def test_statistics_are_over_all_ranks(ranks: int) -> None:
    correct, entropy = nt_xent_stats(*(view[:, :DIM].double() for view in whole_batch(ranks)), TEMPERATURE)
    for found, exact in zip(
        zip(*(result["stats"] for result in results(ranks)), strict=True), (correct, entropy), strict=True
    ):
        by_rank = exact.view(2, ranks, PAIRS).transpose(0, 1).reshape(ranks, -1)
        torch.testing.assert_close(torch.stack(found).double(), by_rank, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranks", [2, 4])
def test_batches_that_differ_are_refused_on_every_rank(ranks: int) -> None:
    for result in results(ranks):
        assert "rank 0: [5, 4] torch.float32, rank 1: [6, 4] torch.float32" in result["uneven"]
        assert "not empty, on every rank" in result["empty"] and "rank 0: [0, 4] torch.float32" in result["empty"]
        assert "rank 1: [5, 5]" in result["widths"]
        assert "rank 1: [5, 4] torch.float64" in result["dtypes"]
        assert "got impl='blockwise', reduction='none'" in result["none"]
        assert "got impl='reference', reduction='mean'" in result["reference"]


def test_one_rank_has_nothing_to_refuse() -> None:
    (result,) = results(1)
    assert [result[name] for name in ("uneven", "widths", "dtypes", "none", "reference")] == [""] * 5


@pytest.mark.parametrize("ranks", WORLDS)
def test_memory_bank_takes_up_the_keys_of_all_ranks(ranks: int) -> None:
    keys = torch.nn.functional.normalize(whole_batch(ranks)[1][:, :DIM], dim=1)
    for result in results(ranks):
        torch.testing.assert_close(result["bank"][: len(keys)], keys)
        assert torch.equal(result["bank"], results(ranks)[0]["bank"])


@pytest.mark.parametrize("ranks", WORLDS)
def test_solo_learn_adaptor_gathers(ranks: int) -> None:
    exact = nt_xent(*(view[:, :DIM].double() for view in whole_batch(ranks)), TEMPERATURE)
    found = torch.stack([result["solo"] for result in results(ranks)])
    torch.testing.assert_close(found.mean().double(), exact, rtol=1e-6, atol=1e-6)


def test_process_group_of_half_the_ranks() -> None:
    views = make_batch(4)
    for half in range(2):
        own = [view[2 * half : 2 * half + 2].reshape(2 * PAIRS, -1)[:, :DIM].double() for view in views]
        found = torch.stack([results(4)[rank]["half"] for rank in (2 * half, 2 * half + 1)])
        torch.testing.assert_close(found.mean().double(), nt_xent(*own, TEMPERATURE), rtol=1e-6, atol=1e-6)
    assert all("not a member" in result["stranger"] for result in results(4))
