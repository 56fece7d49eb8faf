"""Loads the native libraries, and records why one could not be loaded.

Importing this module never raises and never initialises CUDA: loading a library only registers its operators.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastclr._build_plan import MIN_TORCH, installed_from, reinstall_command, version_of

PACKAGE = Path(__file__).resolve().parent.parent


# the schemas of csrc/ops.cpp, for installations without the library
SCHEMAS = {
    "augment_params": (
        "(Tensor ids, Tensor sizes, int seed, SymInt epoch, int first_view, int views, int size, "
        "float crop_scale_lo, float crop_scale_hi, float crop_ratio_lo, float crop_ratio_hi, float log_ratio_lo, "
        "float log_ratio_hi, float flip_p, float brightness, float contrast, float saturation, float hue, "
        "float jitter_p, float gray_p, float blur_p, float blur_sigma_lo, float blur_sigma_hi, float solarize_p, "
        "float min_object_covered, int style, bool blur_sigma_per_batch) -> Tensor"
    ),
    "augment_apply": (
        "(Tensor data, Tensor offsets, Tensor sizes, Tensor params, int size, int style, bool planar, "
        "float[] mean, float[] std, ScalarType dtype, bool channels_last) -> Tensor"
    ),
    "augment_planes": (
        "(Tensor data, Tensor offsets, Tensor sizes, Tensor params, int channels, int size, int style, bool planar, "
        "float[] mean, float[] std, ScalarType dtype, bool channels_last) -> Tensor"
    ),
}

# operators of the CPU library that `fastclr.losses.contrast_native` declares
CPU_ONLY = ("ntxent_cpu", "ntxent_cpu_rows", "ntxent_cpu_rows_bwd")


@dataclass(frozen=True)
class LibraryStatus:
    """State of one native library.

    Args:
        target: ``host``, ``cpu`` or ``cuda``, as in the build plan.
        path: the library's file.
        loaded: whether it can be used in this process.
        reason: what it was built with, or why it cannot be used.
        remedy: what fixes it; empty if there is nothing to fix.
    """

    target: str
    path: Path
    loaded: bool
    reason: str
    remedy: str


def build_record() -> dict[str, Any]:
    """Return what the installation recorded about its build (`_build.json`); empty if there is no record."""
    try:
        record: dict[str, Any] = json.loads((PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return record


def _missing(target: str, path: Path, built: dict[str, Any], reason: str) -> LibraryStatus:
    """Return the state of a library that is to be built and installed again."""
    again = reinstall_command(PACKAGE, *installed_from())
    first = built.get("remedy")
    return LibraryStatus(target, path, False, reason, f"{first}, then {again}" if first else again)


def _load(target: str, file: str) -> LibraryStatus:
    """Load one library and report the result."""
    path = PACKAGE / file
    built: dict[str, Any] = build_record().get("targets", {}).get(target, {})
    if not path.exists():
        return _missing(target, path, built, f"not built: {built.get('reason', 'no build record')}")
    if version_of(torch.__version__) < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        reason = f"built for torch {needed} and newer, this is torch {torch.__version__}"
        return LibraryStatus(target, path, False, reason, f"pip install 'torch>={needed}'")
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return _missing(target, path, {}, f"built, but cannot be loaded: {error}")
    if names := lacking(target):
        reason = f"built from older sources, which have these operators not or otherwise: {', '.join(names)}"
        return _missing(target, path, {}, reason)
    return LibraryStatus(target, path, True, f"built with {built.get('reason', 'an unrecorded toolchain')}", "")


def lacking(target: str) -> list[str]:
    """Return the operators that a loaded library lacks or has with other arguments, as one of older sources does."""
    names = [*SCHEMAS, *(CPU_ONLY if target == "cpu" else ())]
    return [name for name in names if not _has_kernel(name, target.upper()) or not _agrees(name)]


def _has_kernel(name: str, key: str) -> bool:
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"fastclr::{name}", key))
    except RuntimeError:  # no library has such an operator
        return False


def _agrees(name: str) -> bool:
    """Whether the library declares an operator with the arguments that Python passes; some, Python declares."""
    if name not in SCHEMAS:
        return True
    declared = getattr(torch.ops.fastclr, name).default._schema
    return str(declared) == str(torch._C.parse_schema(f"fastclr::{name}{SCHEMAS[name]}"))


def _host() -> LibraryStatus:
    """Import the pybind11 module and report the result."""
    built: dict[str, Any] = build_record().get("targets", {}).get("host", {})
    try:
        host = importlib.import_module("fastclr._host")
    except ImportError as error:
        present = sorted(PACKAGE.glob("_host.*"))
        if not present:
            return _missing("host", PACKAGE / "_host.so", built, f"not built: {built.get('reason', error)}")
        versions = ", ".join(path.name.split(".")[1] for path in present)
        reason = f"built for {versions}, cannot be imported by Python {platform.python_version()}: {error}"
        return _missing("host", present[0], {}, reason)
    return LibraryStatus("host", Path(str(host.__file__)), True, f"built with {host.build_info()['compiler']}", "")


def _load_cuda(cpu: LibraryStatus) -> LibraryStatus:
    """Load the CUDA library, which implements operators that the CPU library declares."""
    path = PACKAGE / "_C_cuda.so"
    if not cpu.loaded:
        return LibraryStatus("cuda", path, False, f"the cpu library is missing: {cpu.reason}", cpu.remedy)
    if torch.version.cuda is None:
        if torch.version.hip is not None:
            reason = f"torch {torch.__version__} is a build for ROCm, whose tensors plain PyTorch augments"
            return LibraryStatus("cuda", path, False, reason, "")
        remedy = "install a CUDA build of torch"
        return LibraryStatus("cuda", path, False, f"torch {torch.__version__} is not a CUDA build", remedy)
    found = _load("cuda", "_C_cuda.so")
    return dataclasses.replace(found, reason=f"{found.reason}; {cuda_needs(build_record())}") if found.loaded else found


def cuda_needs(record: Mapping[str, Any]) -> str:
    """Say which devices and drivers the CUDA library needs, from the record of its build.

    Its CUDA runtime is inside: the one of torch may be another, of CUDA 12 or 13, but the driver must know this one
    (CUDA Compatibility, table 2 of NVIDIA's documentation: 525 for CUDA 12, 580 for CUDA 13).
    """
    archs: list[str] = record.get("archs") or []
    devices = [arch for arch in archs if arch.startswith("sm_")]
    devices += [f"newer than sm_{arch.partition('_')[2]}" for arch in archs if arch.startswith("compute_")]
    major = str(record.get("nvcc")).partition(".")[0]
    driver = {"12": "525", "13": "580"}.get(major)
    return f"for {', '.join(devices) or 'unknown devices'}" + (f", driver {driver} or newer" if driver else "")


_CPU = _load("cpu", "_C.so")
_CUDA = _load_cuda(_CPU)
for _name, _schema in SCHEMAS.items():
    if not hasattr(torch.ops.fastclr, _name):  # no library, or one that was built before the operator was added
        torch.library.define(f"fastclr::{_name}", _schema)


def status() -> tuple[LibraryStatus, ...]:
    """Return the states of the pybind11 module, the CPU library and the CUDA library, in this order."""
    return _host(), _CPU, _CUDA


def kernels(device_type: str) -> LibraryStatus:
    """Return the state of the library with the kernels for ``"cpu"`` or ``"cuda"`` tensors.

    Raises:
        ValueError: there is no library for that device.
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"native augmentation runs on cpu and cuda tensors, got a {device_type} tensor")
    return _CPU if device_type == "cpu" else _CUDA
