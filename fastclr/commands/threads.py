"""How a command shares the processor with others: how its threads wait, and how many there are. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"
# turns of an idle thread of libgomp before it sleeps. By default it turns for milliseconds, on a core that another
# process could use; the threads that have work then wait for that process, step after step. A thousand turns are
# better still beside others, but so few that threads which nobody disturbs fall asleep between operations
FEW_SPINS = "10000"
POLICY = "OMP_WAIT_POLICY"
COUNT = "OMP_NUM_THREADS"
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time so far: of everybody on the cores that this process may use, and of this process."""

    at: float
    everybody: float
    own: float


def usage() -> Usage | None:
    """Return the usage now, or None where the system does not report it."""
    try:
        cores = os.sched_getaffinity(0)
        lines = STAT.read_text().splitlines()
        rows = [line.split() for line in lines if line[:3] == "cpu" and line[3:4].isdigit()]
        # user, nice, system, idle, waiting for a disk, two kinds of interrupts, stolen by other virtual machines
        ticks = [(int(row[0][3:]), sum(map(int, row[1:9])) - int(row[4]) - int(row[5])) for row in rows]
        everybody = sum(count for core, count in ticks if core in cores) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError, IndexError):
        return None
    own = os.times()
    return Usage(time.monotonic(), everybody, own.user + own.system + own.children_user + own.children_system)


def cores_of_others(before: Usage, after: Usage) -> float:
    """Return how many cores other processes kept busy between two usages."""
    spent = (after.everybody - before.everybody) - (after.own - before.own)
    return max(0.0, spent / max(after.at - before.at, 1e-9))


def before_torch() -> Usage | None:
    """Let idle threads sleep soon, unless the user decides; return the usage, or None if it is too late for that."""
    if "torch" in sys.modules:
        return None  # whoever has loaded torch has decided
    if SPINS not in os.environ and POLICY not in os.environ:
        os.environ[SPINS] = FEW_SPINS  # libgomp reads it when torch loads it
    return usage()


def after_torch(before: Usage | None, arguments: Sequence[str]) -> None:
    """Take as many threads as cores were free while torch was loaded.

    Unless the user decides by OMP_NUM_THREADS; and not with --deterministic, whose bits depend on the number and must
    not depend on what else is running.
    """
    after = usage()
    if before is None or after is None or COUNT in os.environ or "--deterministic" in arguments:
        return
    import torch

    from fastclr.device import available_cores

    count = torch.get_num_threads()
    fewer = thread_count(min(count, available_cores()), len(os.sched_getaffinity(0)), cores_of_others(before, after))
    if fewer < count:
        torch.set_num_threads(fewer)


def thread_count(most: int, cores: int, others: float) -> int:
    """Return how many threads to start beside `others` busy cores of `cores`: as many as are free, 1 to `most`.

    Threads work in step, so that one which shares its core with another process holds up all, operation after
    operation: see docs/training.md for how much.
    """
    return max(1, min(most, cores - math.floor(others + 0.5)))


def describe() -> list[str]:
    """Return what `fastclr info` says: how idle threads wait, how busy the machine is, and what own scripts can do."""
    own = {name: os.environ[name] for name in (SPINS, POLICY, COUNT) if name in os.environ}
    settings = " ".join(f"{name}={value}" for name, value in own.items()) or "as OpenMP has it"
    lines = [f"waiting   {settings}"]
    before = usage()
    time.sleep(0.2)
    after = usage()
    if before is not None and after is not None:
        cores = len(os.sched_getaffinity(0))
        lines.append(f"others    keep {cores_of_others(before, after):.1f} of {cores} cores busy")
    lines.append(f"scripts   of your own: export {SPINS}={FEW_SPINS} before Python starts; the fastclr command does so")
    return lines
