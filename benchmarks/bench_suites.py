"""All cases of all suites under pytest-benchmark; with --benchmark-disable only their toys, so that none bit-rots."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_case(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
