"""One fixture that runs a case; with --benchmark-disable its toy, so that no benchmark bit-rots."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import OURS
from fastclr.bench.suite import SUITES, Case, cases
from fastclr.bench.table import text_table
from fastclr.bench.timing import Effort

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise with the cases of all suites."""
    if "case" not in metafunc.fixturenames:
        return
    found = {f"{suite}-{case.name}": case for suite in SUITES for case in cases(suite, DEVICE)}
    if metafunc.config.getoption("benchmark_disable"):
        found = {f"{suite}-{case.toy().name}": case.toy() for suite in SUITES for case in cases(suite, DEVICE)}
    metafunc.parametrize("case", list(found.values()), ids=list(found))


@pytest.fixture
def run_case(benchmark: Any) -> Callable[[Case], None]:
    """Run a case once as the benchmark; `extra_info` gets its rows, timed per contestant."""

    def run(case: Case) -> None:
        torch.set_num_threads(1 if benchmark.disabled else len(os.sched_getaffinity(0)))
        effort = Effort(3.0 if DEVICE.type == "cuda" else 10.0, toy=benchmark.disabled)
        rows = benchmark.pedantic(case.run, args=(Ceilings(DEVICE, toy=benchmark.disabled), effort), rounds=1)
        benchmark.extra_info["rows"] = [row.as_json() for row in rows]
        print("\n" + text_table(case.name, rows))
        own = [row for row in rows if row.provider.startswith(OURS)]
        bad = [f"{row.provider}: {row.status}: {row.note}" for row in own if row.status in ("wrong", "failed")]
        assert own and not bad, bad

    return run
