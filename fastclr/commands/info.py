"""`fastclr info`: what is installed, built and available."""

from __future__ import annotations

import platform

import torch

from fastclr import __version__
from fastclr.augment import native
from fastclr.commands import threads
from fastclr.data.cache import default_folder, usage
from fastclr.device import uses_bf16
from fastclr.environment import PACKAGES, cpu_name, gpu, package_versions
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
        if name == "triton" and not torch.cuda.is_available():
            missing = "not installed: only CUDA devices use it, and torch's CUDA builds bring it"
        lines.append(f"{name:<22}{versions.get(name) or missing}")
    return lines


def implementations() -> list[str]:
    """Describe which implementation of the loss `impl="auto"` picks for each kind of tensor."""
    chosen = "triton" if TRITON_FOUND else "blockwise (no triton: pip install 'fastclr[triton]')"
    cuda = chosen if torch.cuda.is_available() else "no device"
    return ["cpu tensors   blockwise", f"cuda tensors  {cuda}"]
