"""A pytest plugin for machines that are available for minutes only: outcomes go to a JSON file as they come in.

``-p boxed_tests --box-json FILE`` skips tests that passed in an earlier call on the same commit, and with
``--box-minutes N`` no test starts later than that. ``--box-warm`` first runs a share of the tests on every core and
discards the outcomes: that fills Triton's disk cache with hundreds of kernels, which would take one process minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastclr.bench import machine
from fastclr.files import write_text_atomically

SAME = ("commit", "dirty", "gpu", "versions")
WARM_S = 150.0  # kernels that are not compiled by then are compiled by the tests


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption("--box-json", type=Path, help="write outcomes here, and skip tests that passed there already")
    parser.addoption("--box-minutes", type=float, default=float("inf"), help="start no test later than this")
    parser.addoption("--box-warm", action="store_true", help="first fill the compiler's cache with many processes")
    parser.addoption("--box-share", help="i/n: run every n-th test that is not slow, starting at i")


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock and read earlier outcomes."""
    if path := config.getoption("--box-json"):
        config.pluginmanager.register(Box(path, config.getoption("--box-minutes")), "box")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select this process's share of the tests."""
    if share := config.getoption("--box-share"):
        index, count = map(int, share.split("/"))
        items[:] = [item for item in items if item.get_closest_marker("slow") is None][index::count]


def warm(arguments: list[str]) -> None:
    """Run the tests that ``arguments`` select, split among one process per core."""
    count = len(os.sched_getaffinity(0))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "pytest",
        "-p",
        "boxed_tests",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shares = [
        subprocess.Popen([*command, "--box-share", f"{index}/{count}"], env=environment, **quiet)
        for index in range(count)
    ]
    end = time.monotonic() + WARM_S
    for share in shares:
        try:
            share.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            share.kill()
            share.wait()


class Box:
    """Maintains the outcomes of one file."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.end = path, time.monotonic() + 60 * minutes
        self.machine = machine.describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.left: list[str] = []
        self.warm_s = 0.0
        if path.exists():
            stored = json.loads(path.read_text())
            if any(stored["machine"].get(name) != self.machine.get(name) for name in SAME):
                raise pytest.UsageError(f"{path} is from another machine, version or commit: use another OUT")
            self.outcomes, self.warm_s = stored["tests"], stored["warm_s"]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect tests that passed already."""
        done = [item for item in items if self.outcomes.get(item.nodeid, {}).get("outcome") == "passed"]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item not in done]
        self.left = [item.nodeid for item in items]
        if self.left and not self.outcomes and config.getoption("--box-warm"):
            begin = time.monotonic()
            warm(config.args)
            self.warm_s = round(time.monotonic() - begin, 1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of the call, or of the setup or teardown that failed."""
        if report.when == "call" or report.outcome != "passed":
            entry: dict[str, Any] = {"outcome": report.outcome, "seconds": round(report.duration, 3)}
            if report.failed:
                entry["message"] = report.longreprtext[-4000:]
            elif report.skipped and isinstance(report.longrepr, tuple):
                entry["message"] = report.longrepr[2]
            self.outcomes[report.nodeid] = entry

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Write the file after every test, and stop when time is up."""
        result = yield
        self.left = [name for name in self.left if name != item.nodeid]
        self.write()
        if self.left and time.monotonic() > self.end:
            item.session.shouldstop = f"the time is up, {len(self.left)} test(s) to go: run the command again"
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Report success if the session stopped only because time was up: the next call resumes."""
        if session.shouldstop and not session.testsfailed:
            session.exitstatus = pytest.ExitCode.OK

    def write(self) -> None:
        """Write the file atomically."""
        counts: dict[str, int] = {}
        for entry in self.outcomes.values():
            counts[entry["outcome"]] = counts.get(entry["outcome"], 0) + 1
        contents = {
            "format": 1,
            "machine": self.machine,
            "counts": counts,
            "missing": self.left,
            "warm_s": self.warm_s,
            "tests": self.outcomes,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(contents, indent=1) + "\n"
        write_text_atomically(self.path, text)
