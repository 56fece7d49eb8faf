"""`fastclr info`: what is installed, built and available."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from fastclr import __version__
from fastclr.augment import native
from fastclr.commands import threads
from fastclr.data.cache import default_folder, usage
from fastclr.device import uses_bf16
from fastclr.environment import PACKAGES, cpu_name, gpu, package_versions
from fastclr.losses.contrast_native import AVAILABLE
from fastclr.losses.inputs import TRITON_FOUND
from fastclr.sources.printable import show


def main(arguments: list[str]) -> None:
    """Print the report; must work even if packages of the other commands are missing."""
    if arguments:
        raise ValueError(f"fastclr info takes no options, got {' '.join(arguments)}")
    show(report())


def report() -> str:
    """Return the report as text."""
    lines = [f"fastclr {__version__}, Python {platform.python_version()}, {platform.platform()}", ""]
    lines += ["devices", *(f"  {line}" for line in devices())]
    lines += ["", "threads", *(f"  {line}" for line in threads.describe()), "", "native code"]
    for part in native.status():
        lines.append(f"  {part.target:<8}{'ok' if part.loaded else 'NO':<4}{part.reason}")
        if part.remedy:
            lines.append(f"{'':<14}fix it with: {part.remedy}")
    lines += ["", "packages", *(f"  {line}" for line in packages()), "", "loss"]
    lines += [f"  {line}" for line in implementations()]
    lines += ["", "data", f"  {cache_line()}"]
    return "\n".join(lines)


def cache_line() -> str:
    """Describe where decoded images are cached, and how much space they take."""
    folder = default_folder()
    count, size = usage(folder)
    return f"decoded images  {folder}: {count} file(s), {size / 1e9:.3g} GB (`fastclr data --clear-cache` removes them)"


def devices() -> list[str]:
    """Describe the CPU and every CUDA device."""
    bf16 = "bfloat16 instructions" if uses_bf16("auto", torch.device("cpu")) else "no bfloat16 instructions"
    lines = [f"cpu     {cpu_name()}, {torch.get_num_threads()} threads, {bf16}"]
    if not torch.cuda.is_available():
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no usable NVIDIA driver"
        if torch.version.hip is not None:
            why = "this torch is a build for ROCm, and finds no device"
        return [*lines, f"cuda    none: {why}"]
    for index in range(torch.cuda.device_count()):
        found = gpu(index)
        capability = found["gpu_capability"].replace(".", "")
        lines.append(f"cuda:{index}  {found['gpu']}, {found['gpu_memory'] / 2**30:.0f} GiB, sm_{capability}")
    return lines


def packages() -> list[str]:
    """List versions, and for missing packages the extra that installs them."""
    versions = package_versions()
    lines = []
    for name, extra in PACKAGES.items():
        missing = f"not installed: pip install {extra!r}"
        if name == "triton":
            missing = without_triton()
        lines.append(f"{name:<22}{versions.get(name) or missing}")
    return lines


def implementations() -> list[str]:
    """Describe which implementation of the loss `impl="auto"` picks for each kind of tensor."""
    cuda = "triton" if TRITON_FOUND else f"blockwise, triton {without_triton()}"
    if TRITON_FOUND and compiles_launchers() and not compiler():
        cuda = "triton, which compiles launchers and finds no C compiler: install gcc or set CC"
    cuda = cuda if torch.cuda.is_available() else "no device"
    cpu = "in C++ for NT-Xent of float32 and half rows, blockwise for others" if AVAILABLE else "blockwise"
    return [f"cpu tensors   {cpu}", f"cuda tensors  {cuda}"]


def without_triton() -> str:
    """Say what is to be done about a triton that is not installed as such.

    Builds of torch for ROCm and XPU bring one of another name, imported by this one, which that of PyPI would replace.
    """
    if torch.version.hip is not None:
        return "as torch's build for ROCm brings it" if TRITON_FOUND else "not found: torch's builds for ROCm bring it"
    if not torch.cuda.is_available():
        return "not installed: only CUDA devices use it, and torch's CUDA builds bring it"
    return "not installed: pip install 'fastclr[triton]'"


def compiles_launchers() -> bool:
    """Whether this Triton calls a C compiler before it launches a kernel on NVIDIA's GPUs, as 3.6 does."""
    found = find_spec("triton")
    driver = Path(found.origin or "").parent / "backends" / "nvidia" / "driver.py" if found else None
    return driver is not None and driver.is_file() and "compile_module_from_src" in driver.read_text()


def compiler() -> str | None:
    """Return the C compiler that Triton would call, or None."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
