"""A training step, part by part: every case of `fastclr.bench.step`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_step(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
