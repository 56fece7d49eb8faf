"""`fastclr info`: what is installed, built and available; for what is not, the reason and the command that mends it."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from fastclr import __version__
from fastclr.data.cache import default_folder, usage
from fastclr.device import uses_bf16
from fastclr.loss_options import TRITON_FOUND
from fastclr.ops import library

PACKAGES = {
    "triton": "fastclr (on Linux)",
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


def report() -> str:
    """Return the report as text."""
    lines = [f"fastclr {__version__}, Python {platform.python_version()}, {platform.platform()}", ""]
    lines += ["devices", *(f"  {line}" for line in devices()), "", "native code"]
    for part in library.status():
        lines.append(f"  {part.target:<8}{'ok' if part.loaded else 'NO':<4}{part.reason}")
        if part.remedy:
            lines.append(f"{'':<14}mend it with: {part.remedy}")
    lines += ["", "packages", *(f"  {line}" for line in packages()), "", "loss"]
    lines += [f"  {line}" for line in implementations()]
    lines += ["", "data", f"  {cache_line()}"]
    return "\n".join(lines)


def cache_line() -> str:
    """Say where decoded images are kept, and how much that is."""
    folder = default_folder()
    count, size = usage(folder)
    return f"decoded images  {folder}: {count} file(s), {size / 1e9:.3g} GB (`fastclr data --clear-cache` removes them)"


def devices() -> list[str]:
    """Describe the CPU and every CUDA device."""
    bf16 = "bfloat16 instructions" if uses_bf16("auto", torch.device("cpu")) else "no bfloat16 instructions"
    lines = [f"cpu     {torch.get_num_threads()} threads, {bf16}"]
    if not torch.cuda.is_available():
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no usable NVIDIA driver"
        return [*lines, f"cuda    none: {why}"]
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index}  {p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}")
    return lines


def packages() -> list[str]:
    """List versions, and for what is missing the extra that brings it."""
    lines = [f"{'torch':<22}{torch.__version__}"]
    for name, extra in PACKAGES.items():
        try:
            lines.append(f"{name:<22}{metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name:<22}not installed: pip install '{extra}'")
    return lines


def implementations() -> list[str]:
    """Say which implementation of the loss `impl="auto"` takes on each kind of tensor."""
    chosen = "triton" if TRITON_FOUND else "blockwise (no triton)"
    cuda = chosen if torch.cuda.is_available() else "no device"
    return ["cpu tensors   blockwise", f"cuda tensors  {cuda}"]
