"""How much memory is left."""

from __future__ import annotations

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes of main memory that can still be taken.

    On Linux the smaller of the kernel's estimate and what is left of the container's limit; elsewhere the memory that
    is built in, or a very large number when the system does not tell.
    """
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return 2**63 - 1
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


def local_processes() -> int:
    """Return how many processes of this distributed job run on this machine, as torchrun tells; 1 without it."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return int(value) if value.isdecimal() and int(value) > 0 else 1
