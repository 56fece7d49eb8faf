"""NT-Xent over several processes: every case of `fastclr.bench.distributed`."""

from __future__ import annotations

from collections.abc import Callable

from fastclr.bench.suite import Case


def bench_distributed(run_case: Callable[[Case], None], case: Case) -> None:
    run_case(case)
