"""NT-Xent forward and backward beside others: every case of `fastclr.bench.loss`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_loss(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
