"""The machine, versions and source tree that a result was measured with."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fastclr
from fastclr.environment import RECORDED, cpu_name, gpu, package_versions

# glibc's mallopt numbers and values of M_MMAP_MAX and M_TRIM_THRESHOLD, by the variables that child processes read
KEEP_FREED = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}
DEFAULT_MALLOC = "default"
BUSY = 0.3  # load average per core above which a machine counts as busy


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, in this process and those it starts; return whether it will.

    By default it returns large blocks at once, and every call pays for their pages again. Small allocations in
    between split the first few freed blocks, so it takes about ten calls until no new blocks are needed. With other C
    libraries this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not all(mallopt(number, value) == 1 for number, value in KEEP_FREED.values()):
        return False
    os.environ.update({name: str(value) for name, (_, value) in KEEP_FREED.items()})
    return True


def malloc() -> str:
    """Return `keeps freed memory` or `DEFAULT_MALLOC`."""
    kept = all(os.environ.get(name) == str(value) for name, (_, value) in KEEP_FREED.items())
    return "keeps freed memory" if kept else DEFAULT_MALLOC


def is_busy(here: dict[str, Any]) -> bool:
    """Whether something else was running on the machine when `describe` looked."""
    return bool(here["load"] > BUSY * (here["cores"] or 1))


def busy_text(here: dict[str, Any]) -> str:
    """Return a warning that the machine is busy."""
    return f"the machine is busy (load {here['load']}): times will be noisy, most of all for code that uses all cores"


def describe(device: torch.device) -> dict[str, Any]:
    """Return the machine, the versions and the state of the source tree.

    The commit comes from git or, for a tree without its history, from FASTCLR_COMMIT.
    """
    found: dict[str, Any] = {
        "device": device.type,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "malloc": malloc(),
        "load": round(os.getloadavg()[0], 2),  # before the first measurement, so above 0 something else is running
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"fastclr": fastclr.__version__, **package_versions(RECORDED)},
        **commit(),
    }
    if device.type == "cuda":
        found |= gpu(device.index) | {"cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
        found |= nvidia_smi(device)
    return found


def nvidia_smi(device: torch.device) -> dict[str, str]:
    """Return driver, power limit and highest clock of a GPU as nvidia-smi reports them; changes nothing."""
    fields = {"driver": "driver_version", "power_limit": "power.limit", "max_clock": "clocks.max.sm"}
    index = str(device.index if device.index is not None else torch.cuda.current_device())
    text = output("nvidia-smi", "-i", index, f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader")
    values = [value.strip() for value in text.split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def commit() -> dict[str, Any]:
    """Return `commit` (None if unknown) and `dirty` of the source tree that contains this package."""
    root = Path(fastclr.__file__).resolve().parents[1]
    named = os.environ.get("FASTCLR_COMMIT")
    for folder in (root, Path.cwd()):
        if (folder / ".git").exists() and (folder / "fastclr").is_dir():
            head = output("git", "-C", str(folder), "rev-parse", "HEAD")
            if head:
                return {"commit": head, "dirty": bool(output("git", "-C", str(folder), "status", "--porcelain"))}
    return {"commit": named, "dirty": None}


def output(*command: str) -> str:
    """Return the output of a command, or an empty string if it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def command_line() -> str:
    """Return this process's command line, without the folders of absolute paths."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.orig_argv]
    return " ".join(words)


def slug(machine: dict[str, Any]) -> str:
    """Return a short name for result files: GPU or CPU, torch version, whether freed memory is kept."""
    name = str(machine.get("gpu") or machine["cpu"])
    name = re.sub(r"\((R|TM)\)|NVIDIA|Intel|AMD|Processor|CPU|@.*", " ", name, flags=re.I)
    kind = "" if machine.get("gpu") else "cpu-"
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    torch_version = str(machine["versions"]["torch"]).partition("+")[0]
    ending = "" if machine.get("malloc", DEFAULT_MALLOC) == DEFAULT_MALLOC else "-freed-memory-kept"
    return f"{kind}{name or 'unknown'}-torch{torch_version}{ending}"
