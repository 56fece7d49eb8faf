"""The clock of the benchmarks: turns, spreads, ratios, and contestants that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastclr.bench import timing
from fastclr.bench.memory import peak_bytes
from fastclr.bench.rows import Attempt, Contestant, Row, Spread, Unsuitable, WrongResultError
from fastclr.bench.table import text_table
from fastclr.bench.timing import Effort, contest, sample

CPU = torch.device("cpu")


def base() -> Row:
    return Row(suite="s", case="c", provider="", status="ok")


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_spread_is_median_and_percentiles(count: int) -> None:
    samples = np.random.default_rng(count).random(count)
    found = Spread.of(samples.tolist())
    np.testing.assert_allclose([found.median, found.p20, found.p80], np.percentile(samples, [50, 20, 80]))


def test_spread_of_one_sample_and_noise() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
    assert Spread(1.0, 0.9, 1.1).noisy and not Spread(1.0, 0.95, 1.05).noisy


class Clock:
    """Replaces the wall clock: programs advance it by the time they claim to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = 0.0, [""]
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def contestant(self, name: str, seconds: Callable[[], float], work: int = 1) -> Contestant:
        def spend(_: Any) -> None:
            self.now += seconds()
            self.log.append(name)

        return Contestant(name, lambda: Attempt({"run": spend}, lambda: 0.5, work))


def test_contestants_take_turns_and_the_ratio_is_taken_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # the machine slows down steadily; the second contestant always takes three times as long for twice the work
    speed = lambda: 1.0 + 0.03 * len(clock.log)  # noqa: E731
    contestants = [clock.contestant("fastclr", speed), clock.contestant("peer", lambda: 3 * speed(), work=2)]
    ours, peer = contest(contestants, base, CPU, Effort(budget_s=40.0), memory=False)
    assert ours.n == peer.n >= 5 and ours.inner == 1
    assert ours.time is not None and ours.time.noisy
    assert peer.ratio is not None and peer.ratio.median == pytest.approx(1.5, rel=0.05)
    assert ours.ratio is not None and ours.ratio.median == 1.0
    turns = clock.log[3:]  # after the calibration of both
    assert all({a, b} == {"fastclr", "peer"} for a, b in zip(turns[::2], turns[1::2], strict=True))
    assert turns[0] == "fastclr" and turns[2] == "peer"  # each round starts with the other contestant


def test_short_programs_are_repeated_within_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    (row,) = contest([clock.contestant("fastclr", lambda: 0.001)], base, CPU, Effort(budget_s=1.0), memory=False)
    assert (
        row.inner == round(timing.SAMPLE_S["cpu"] / 0.001)
        and row.time is not None
        and row.time.median == pytest.approx(0.001)
    )


def test_stages_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def stage(seconds: float) -> Callable[[Any], float]:
        def spend(before: Any) -> float:
            clock.now += seconds
            return (before or 0.0) + seconds

        return spend

    found = sample({"first": stage(1.0), "second": stage(2.0)}, 4, CPU)
    assert found == pytest.approx({"first": 1.0, "second": 2.0, "total": 3.0})


def test_those_that_fail_say_why_and_get_no_time() -> None:
    def raising(error: Exception) -> Callable[[], Attempt]:
        def prepare() -> Attempt:
            raise error

        return prepare

    def wrong() -> float:
        raise WrongResultError(0.5, 1e-4, "gradient")

    def late(_: Any) -> None:
        raise RuntimeError("broke\nsecond line")

    contestants = [
        Contestant("missing", raising(ModuleNotFoundError("no module named x"))),
        Contestant("other", raising(Unsuitable("runs on CUDA devices only"))),
        Contestant("big", raising(torch.OutOfMemoryError("CUDA out of memory"))),
        Contestant("broken", raising(RuntimeError("broke\nsecond line"))),
        Contestant("wrong", lambda: Attempt({"run": lambda _: None}, wrong, 1)),
        Contestant("late", lambda: Attempt({"run": late}, lambda: 0.0, 1)),
        Contestant("fine", lambda: Attempt({"run": lambda _: None}, lambda: 0.0, 1)),
    ]
    rows = contest(contestants, base, CPU, Effort(toy=True), memory=False)
    assert [row.status for row in rows] == [
        "not installed",
        "unsuitable",
        "out of memory",
        "failed",
        "wrong",
        "failed",
        "ok",
    ]
    assert [row.time is not None for row in rows] == [False] * 6 + [True]
    assert "broke" in rows[3].note and "second line" not in rows[3].note
    assert rows[4].error == 0.5 and "5.0e-01" in rows[4].note


def test_rows_survive_the_file() -> None:
    row = base()
    row.provider = "fastclr"
    row.time, row.ratio, row.stages = Spread(1, 0.5, 2), Spread(3, 2, 4), {"forward": Spread(1, 1, 1)}
    row.work, row.floor_s, row.error, row.peak_bytes = 10, 0.25, 0.0, 0
    assert Row.from_json(row.as_json()) == row
    assert row.rate == 10 and row.share == 0.25 and row.as_json()["share"] == 0.25


def test_peak_bytes_counts_what_is_held_at_once() -> None:
    mib = 2**20

    def compute() -> None:
        first = torch.empty(3 * mib, dtype=torch.uint8)
        del first
        kept = [torch.empty(2 * mib, dtype=torch.uint8) for _ in range(2)]
        del kept

    assert 4 * mib <= peak_bytes(compute) < 4.1 * mib


def test_a_long_name_stands_apart_from_its_time() -> None:
    rows = [
        Row(suite="s", case="c", provider=name, status="ok") for name in ("fastclr", "dense loss, cached gradients")
    ]
    for row in rows:
        row.time = Spread(0.5, 0.4, 0.6)
    _, first, second = text_table("c", rows).splitlines()
    assert "dense loss, cached gradients  " in second and first.index("~500 ms") == second.index("~500 ms")
