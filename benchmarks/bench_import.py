"""Import time, and calls on next to nothing: every case of `fastclr.bench.overhead`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_overhead(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
