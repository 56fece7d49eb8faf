"""What this machine offers: device, precision, determinism, free memory, cores."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


def resolve_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, ...

    Raises:
        ValueError: the name is that of another kind of device, or the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be a CPU, a CUDA device or mps, got {name!r}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r} does not exist: torch finds no Apple GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} does not exist: torch sees {torch.cuda.device_count()} CUDA device(s)")
    return device


def uses_bf16(amp: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: `amp` is `bf16`, or it is `auto` and `device` has bfloat16 instructions."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@cache
def has_float64(kind: str) -> bool:
    """Tell whether devices of this type compute in float64, which Apple's mps and some of Intel's xpu do not."""
    if kind in ("cpu", "cuda", "meta"):
        return True
    try:
        return bool((torch.ones(1, dtype=torch.float64, device=kind) * 2 == 2).item())
    except (RuntimeError, TypeError):
        return False


# Dynamo cannot trace that. This is torch.compiler.assume_constant_result without its import of Dynamo
has_float64._dynamo_marked_constant = True  # type: ignore[attr-defined]


def vector_dtype(device: torch.device) -> torch.dtype:
    """Dtype of per-row values: float64, where there is one, is cheap there; exp(s - lse) is then as accurate as s."""
    return torch.float64 if has_float64(device.type) else torch.float32


def exact_device(device: torch.device) -> torch.device:
    """Return where to compute what needs float64: `device`, or the CPU if it has none."""
    return device if has_float64(device.type) else torch.device("cpu")


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor where float64 can be computed from it: where it is, or on the CPU."""
    return tensor if has_float64(tensor.device.type) else tensor.cpu()


def set_deterministic() -> None:
    """Make torch use deterministic algorithms, and raise where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 matrices in full float32, not TF32 or bfloat16, inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Return the bytes of main memory that can still be allocated.

    On Linux the smaller of the kernel's estimate and what is left of the container's limit; elsewhere the installed
    memory, or a very large number if the system does not report it.
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
    """Return how many processes of this job run on this machine according to torchrun; 1 without torchrun."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return int(value) if value.isdecimal() and int(value) > 0 else 1


def available_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and by the quota of its control group."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13; it knows PYTHON_CPU_COUNT too
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(math.ceil(quota), 1) for quota in cpu_quotas())])


def cpu_quotas() -> Iterator[float]:
    """Yield the processor time that this process's control group, and each above it, allows: seconds per second."""
    try:
        name = GROUPS.read_text().splitlines()[-1].removeprefix("0::/")
    except (OSError, IndexError):
        return
    for group in (folder := CGROUP / name, *folder.parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        if group == CGROUP:
            return


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes allocated on a CUDA device; on others, the most memory that the process has held.

    Linux counts the latter from the start of the program; getrusage would start from what its parent had.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
