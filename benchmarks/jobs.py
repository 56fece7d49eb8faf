"""Processes of one thread that do one thing each and store it: some at a time, and none outlives its parent."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Job = TypeVar("Job")

POLL_S = 0.2


class Pool(Generic[Job]):
    """Runs the next job whenever there is room for one.

    Args:
        jobs: processes at a time.
        following: the next job that can start, given those that run; None where there is none now.
        command: arguments of Python for a job.
        log: the file for what a job says.
        ended: called with a job and its exit status.
    """

    def __init__(
        self,
        jobs: int,
        following: Callable[[Sequence[Job]], Job | None],
        command: Callable[[Job], Sequence[str]],
        log: Callable[[Job], Path],
        ended: Callable[[Job, int], None],
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self.jobs, self.following, self.command, self.log, self.ended = jobs, following, command, log, ended

    def run(self, until: float = math.inf) -> None:
        """Run jobs until none can start, or the clock `time.monotonic` is past `until`; then those that run are killed.

        So they are when an exception ends this.
        """
        running: dict[subprocess.Popen[bytes], Job] = {}
        try:
            while time.monotonic() < until:
                while len(running) < self.jobs:
                    job = self.following(list(running.values()))
                    if job is None:
                        break
                    running[self._start(job)] = job
                if not running:
                    return
                time.sleep(POLL_S)
                for child in [child for child in running if child.poll() is not None]:
                    self.ended(running.pop(child), child.returncode)
        finally:
            for child in running:
                child.kill()
                child.wait()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", *self.command(job)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self.log(job).open("wb") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )


def end_with(parent: int) -> None:
    """End this process when the one that started it has ended, so that two never do the same work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
