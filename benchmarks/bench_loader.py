"""From JPEG files to views beside others: every case of `fastclr.bench.loader`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_loader(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
