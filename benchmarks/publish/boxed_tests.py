"""A pytest plugin for machines that are lent for minutes: outcomes go to a JSON file as they come.

With ``-p boxed_tests --box-json FILE`` tests that passed in an earlier call on the same commit are left out, and with
``--box-minutes N`` no test is started later than that. ``--box-warm`` first has every core run a share of the tests,
unseen: the hundreds of kernels are then in Triton's cache on disk, where one process would compile them for minutes.
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
WARM_S = 150.0  # what is not compiled by then is compiled by the tests


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption("--box-json", type=Path, help="write outcomes here, and leave out what passed there already")
    parser.addoption("--box-minutes", type=float, default=float("inf"), help="start no test later than this")
    parser.addoption("--box-warm", action="store_true", help="first run the tests in many processes, unseen")
    parser.addoption("--box-share", help="i/n: run every n-th test that is not slow, beginning with i")


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock and read what is there."""
    if path := config.getoption("--box-json"):
        config.pluginmanager.register(Box(path, config.getoption("--box-minutes")), "box")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the share of this process."""
    if share := config.getoption("--box-share"):
        index, count = map(int, share.split("/"))
        items[:] = [item for item in items if item.get_closest_marker("slow") is None][index::count]


def warm(arguments: list[str]) -> None:
    """Run the tests that ``arguments`` name, a share in each of as many processes as there are cores."""
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
    """Keeps the outcomes of one file."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.end = path, time.monotonic() + 60 * minutes
        self.machine = machine.describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.left: list[str] = []
        self.warm_s = 0.0
        if path.exists():
            stored = json.loads(path.read_text())
            if any(stored["machine"].get(name) != self.machine.get(name) for name in SAME):
                raise pytest.UsageError(f"{path} is of another machine, version or commit: give another OUT")
            self.outcomes, self.warm_s = stored["tests"], stored["warm_s"]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what passed already."""
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
        """Note the outcome: of the call, or of what went wrong around it."""
        if report.when == "call" or report.outcome != "passed":
            entry: dict[str, Any] = {"outcome": report.outcome, "seconds": round(report.duration, 3)}
            if report.failed:
                entry["message"] = report.longreprtext[-4000:]
            elif report.skipped and isinstance(report.longrepr, tuple):
                entry["message"] = report.longrepr[2]
            self.outcomes[report.nodeid] = entry

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Write after every test, and stop when the time is up."""
        result = yield
        self.left = [name for name in self.left if name != item.nodeid]
        self.write()
        if self.left and time.monotonic() > self.end:
            item.session.shouldstop = f"the time is up, {len(self.left)} test(s) to go: run the command again"
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End well where nothing but the time was up: the next call goes on."""
        if session.shouldstop and not session.testsfailed:
            session.exitstatus = pytest.ExitCode.OK

    def write(self) -> None:
        """Write the file, whole."""
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
