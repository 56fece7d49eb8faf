"""The plan of an epoch: every image once, whatever the ranks, the batch and the step at which a run resumes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastclr.data.order import Order, permutation
from fastclr.data.plan import Plan

COUNTS, BATCHES, WORLDS = st.integers(1, 90), st.integers(1, 25), st.sampled_from([1, 2, 3, 8])


def plans(count: int, batch_size: int, world: int, seed: int, drop_last: bool) -> list[Plan]:
    """The plan of every rank."""
    return [Plan(count, Order(batch_size, seed, True, drop_last, rank, world)) for rank in range(world)]


@given(COUNTS, BATCHES, WORLDS, st.integers(0, 2**64 - 1), st.integers(0, 100), st.data())
def test_every_row_once_also_when_resumed(
    count: int, batch: int, world: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    """The steps before and after a resumption hold every row once over all ranks, and the padding twice."""
    ranks = plans(count, batch, world, seed, False)
    steps = len(ranks[0])
    assert steps == -(-count // (batch * world))
    start = data.draw(st.integers(0, steps))
    order = ranks[0].permuted(epoch)
    assert torch.equal(order, permutation(count, seed, epoch))
    seen: list[int] = []
    for first, last in ((0, start), (start, steps)):
        for step, plan in itertools.product(range(first, last), ranks):
            rows = plan.rows(plan.permuted(epoch), step).tolist()
            assert 1 <= len(rows) <= batch
            seen += rows
    padding = -(count % (batch * world)) % world if count % (batch * world) else 0
    expected = order.tolist() + [order[i % count].item() for i in range(padding)]
    assert sorted(seen) == sorted(expected)


@given(COUNTS, BATCHES, WORLDS, st.integers(0, 2**64 - 1))
def test_whole_steps_follow_the_formula(count: int, batch: int, world: int, seed: int) -> None:
    """Step s of rank r holds order[(s W + r) B : (s W + r + 1) B]."""
    if count < batch * world:
        with pytest.raises(ValueError, match=f"needs {batch * world} images"):
            Plan(count, Order(batch, seed, world_size=world))
        return
    for plan in plans(count, batch, world, seed, True):
        order = plan.permuted(5)
        assert len(plan) == count // (batch * world)
        for step in range(len(plan)):
            begin = (step * world + plan.order.rank) * batch
            assert plan.rows(order, step).tolist() == order.tolist()[begin : begin + batch]


@given(COUNTS, BATCHES, WORLDS, st.booleans(), st.data())
def test_candidates_begin_with_the_row_and_reach_every_other(
    count: int, batch: int, world: int, drop_last: bool, data: st.DataObject
) -> None:
    """The first candidate is the planned row, the next stands one step later, and none is left out."""
    if drop_last and count < batch * world:
        return
    plan = Plan(count, Order(batch, 3, True, drop_last, data.draw(st.integers(0, world - 1)), world))
    order = plan.permuted(1)
    step = data.draw(st.integers(0, len(plan) - 1))
    for place, row in zip(plan.positions(step), plan.rows(order, step).tolist(), strict=True):
        candidates = list(plan.candidates(order, place))
        following = [int(order[(place + batch * world + k) % count]) for k in range(count)]
        assert candidates == [row] + [other for other in following if other != row]


def test_one_bad_image_does_not_double_another_in_its_batch() -> None:
    """While the epoch has another step, the image that stands in is not in the batch already."""
    plan = Plan(40, Order(8, 7))
    order = plan.permuted(0)
    for step in range(len(plan)):
        rows = plan.rows(order, step).tolist()
        for place in plan.positions(step):
            assert list(plan.candidates(order, place))[1] not in rows


def test_positions_are_checked() -> None:
    """Positions outside of an epoch, and numbers that are out of range, name what they got."""
    plan = Plan(10, Order(3))
    for epoch, start in ((-1, 0), (0, -1), (0, 4)):
        with pytest.raises(ValueError, match="must be"):
            plan.check_start(epoch, start)
    plan.check_start(0, 3)
    with pytest.raises(ValueError, match="empty: photos"):
        Plan(0, Order(3, drop_last=False), source="photos")
    with pytest.raises(ValueError, match="rank 2 of world_size 2"):
        Order(1, rank=2, world_size=2)
    with pytest.raises(TypeError, match=r"order must be a fastclr\.data\.Order, got int"):
        Plan(10, 3)  # type: ignore[arg-type]
