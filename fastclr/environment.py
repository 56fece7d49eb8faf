"""The packages, processor and devices that this process uses; a run stores them as ``environment.json``."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastclr import __version__
from fastclr.device import available_cores
from fastclr.files import read_json, write_text_atomically

# the packages that affect what fastclr does or how fast, and which installation provides them
PACKAGES = {
    "torch": "fastclr",
    "triton": "fastclr[triton]",
    "numpy": "fastclr",
    "torchvision": "fastclr[train]",
    "timm": "fastclr[train]",
    "tyro": "fastclr[train]",
    "scikit-learn": "fastclr[train]",
    "safetensors": "fastclr[train]",
    "onnxruntime": "fastclr[export]",
    "pyarrow": "fastclr[export]",
    "nvidia-dali-cuda130": "fastclr[dali]",
    "tensorboard": "fastclr[logging]",
}
# those that affect the results of a run or a benchmark
RECORDED = ("torch", "triton", "torchvision", "timm", "numpy", "nvidia-dali-cuda130")


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in filter(None, names):
        try:
            found[name] = torch.__version__ if name == "torch" else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Return the processor's model name as the system reports it."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def gpu(index: int | None = None) -> dict[str, Any]:
    """Return name, memory in bytes, compute capability and number of multiprocessors of a CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "gpu_multiprocessors": properties.multi_processor_count,
    }


def environment() -> dict[str, str]:
    """Return versions, system and devices of this process, as strings under short names."""
    versions = package_versions(RECORDED)
    found = {
        "fastclr": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": str(available_cores()),
        "threads": str(torch.get_num_threads()),
        **{name: versions.get(name, "not installed") for name in RECORDED},
    }
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = str(gpu(index)["gpu"])
    return found


def record_environment(folder: Path) -> None:
    """Write `environment()` into a run's folder, unless it exists: a resumed run keeps that of its start."""
    path = folder / "environment.json"
    if not path.exists():
        text = json.dumps(environment(), indent=2) + "\n"
        write_text_atomically(path, text)


def read_environment(folder: Path) -> dict[str, str] | None:
    """Return what `record_environment` wrote, or None if the run has no record."""
    path = folder / "environment.json"
    if not path.is_file():
        return None
    return {name: str(value) for name, value in read_json(path).items()}


def use_stored_threads(folder: Path) -> None:
    """Go on with the number of threads that a run began with, on which its bits depend; nothing if it has no record.

    Unless the user, or torchrun, decides by OMP_NUM_THREADS.
    """
    stored = (read_environment(folder) or {}).get("threads", "")
    if stored.isdecimal() and int(stored) > 0 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(int(stored))
