"""The benchmark beside busy processes: what it starts works when it may, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

from fastclr.bench import busy
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import OURS
from fastclr.bench.timing import Effort
from fastclr.commands import threads


def seconds(pid: int) -> float:
    """Processor time of a process."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def eventually(holds: Callable[[], bool]) -> bool:
    """Tell whether something holds within 20 seconds."""
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_ours_is_what_the_command_line_does() -> None:
    cores = len(os.sched_getaffinity(0))
    for others in range(cores + 2):
        count = threads.thread_count(cores, cores, others)
        assert busy.settings(others)[OURS] == {threads.SPINS: threads.FEW_SPINS, threads.COUNT: str(count)}


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_others_work_inside_of_the_block_alone() -> None:
    others = busy.Others(1)
    (process,) = others.processes
    try:
        with others.working():
            begin = seconds(process.pid)
            assert eventually(lambda: seconds(process.pid) > begin + 0.1)
        time.sleep(0.1)
        stopped = seconds(process.pid)
        time.sleep(0.3)
        assert seconds(process.pid) == stopped
    finally:
        others.close()
    assert process.returncode is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_others_end_with_a_parent_that_is_killed() -> None:
    """One that works, and one that is stopped."""
    source = "from fastclr.bench import busy; one, two = busy.Others(1), busy.Others(1)\n"
    source += "with one.working(): print(one.processes[0].pid, two.processes[0].pid, flush=True); input()"
    command = [sys.executable, "-W", "ignore", "-c", source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        if parent.stdout is None:
            raise ValueError("no output")
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert eventually(lambda: seconds(pids[0]) > 0.2)  # it has said by now that it ends with its parent
        time.sleep(0.3)
        parent.kill()
    assert len(pids) == 2 and eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_trainer_that_ends_is_a_failed_row_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[busy.Others] = []

    class Counted(busy.Others):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            started.append(self)

    monkeypatch.setattr(busy, "Others", Counted)
    monkeypatch.setattr(busy.Trainer, "train", lambda self, steps: (_ for _ in ()).throw(ValueError("it ended")))
    rows = busy.BusyCase(1).toy().run(Ceilings(torch.device("cpu"), True), Effort(toy=True))
    assert [row.provider for row in rows] == [OURS, OURS + busy.ALONE]
    assert all(row.status == "failed" and "it ended" in row.note for row in rows)
    assert all(process.returncode is not None for process in started[0].processes)
