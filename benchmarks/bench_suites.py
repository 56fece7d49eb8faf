"""Every case of every suite under pytest-benchmark; with --benchmark-disable its toy, so that no benchmark rots."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_case(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
