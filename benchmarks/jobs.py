"""Processes of one thread that do one thing each and store it: some at a time, and none outlives its parent."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Generic, TypeVar

Job = TypeVar("Job")

POLL_S = 0.1
PRELOAD = ["fastclr.training.loop", "fastclr.training.evaluation", "timm"]


class Pool(Generic[Job]):
    """Runs the next job whenever there is room for one, in processes forked from one that has imported everything.

    Args:
        jobs: processes at a time.
        following: the next job that can start, given those that run; None where there is none now.
        main: what each process calls, a function of a module.
        arguments: what it is called with for a job.
        log: the file for what a job says.
        ended: called with a job and its exit status.
    """

    def __init__(
        self,
        jobs: int,
        following: Callable[[Sequence[Job]], Job | None],
        main: Callable[[list[str]], int],
        arguments: Callable[[Job], Sequence[str]],
        log: Callable[[Job], Path],
        ended: Callable[[Job, int], None],
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self.jobs, self.following, self.log, self.ended = jobs, following, log, ended
        self.main, self.arguments = main, arguments

    def run(self, until: float = math.inf) -> None:
        """Run jobs until none can start, or the clock `time.monotonic` is past `until`; then those that run are killed.

        So they are when an exception ends this.
        """
        running: dict[ForkServerProcess, Job] = {}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: this one computes nothing
        try:
            while time.monotonic() < until:
                while len(running) < self.jobs:
                    job = self.following(list(running.values()))
                    if job is None:
                        break
                    child = context.Process(target=enter, args=(self.log(job), self.main, list(self.arguments(job))))
                    child.start()
                    running[child] = job
                if not running:
                    return
                time.sleep(POLL_S)
                for child, status in [(child, child.exitcode) for child in running]:
                    if status is not None:
                        self.ended(running.pop(child), status)
        finally:
            for child in running:
                child.kill()
                child.join()


def enter(log: Path, main: Callable[[list[str]], int], arguments: list[str]) -> None:
    """Do a job in its own process, which ends when the benchmark has, so that two never do the same work."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with log.open("wb") as file:
        for output in (sys.stdout, sys.stderr):
            output.flush()
            os.dup2(file.fileno(), output.fileno())
    warnings.simplefilter("ignore")
    sys.exit(main(arguments))
