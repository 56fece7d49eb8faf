"""Where a run was computed: versions, system and devices, kept as ``environment.json`` in its folder."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from fastclr import __version__
from fastclr.checkpoint import write_text_atomically

PACKAGES = ("triton", "torchvision", "timm", "numpy", "nvidia-dali-cuda130")


def environment() -> dict[str, str]:
    """Return the versions, the system and the devices of this process, as texts under short names."""
    found = {
        "fastclr": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "torch": torch.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


def record_environment(folder: Path) -> None:
    """Write `environment()` into the folder of a run, unless it is there: a resumed run keeps where it began."""
    path = folder / "environment.json"
    if not path.exists():
        text = json.dumps(environment(), indent=2) + "\n"
        write_text_atomically(path, text)


def read_environment(folder: Path) -> dict[str, str] | None:
    """Return what `record_environment` wrote, None if the run has none."""
    path = folder / "environment.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return {str(name): str(value) for name, value in stored.items()}
