"""Two random views of a batch beside others: every case of `fastclr.bench.augment`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_augment(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
