"""Choice of device, precision and determinism; each says what it took."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


def resolve_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ValueError: the name is no device, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a CPU or a CUDA device, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device


def uses_bf16(amp: str, device: torch.device) -> bool:
    """Tell whether to autocast to bfloat16: `amp` says so, or is `auto` and `device` has the instructions."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def set_deterministic() -> None:
    """Make torch choose reproducible algorithms, and raise where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 matrices in float32, not TF32 or bfloat16, until the end of the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
