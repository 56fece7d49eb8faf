"""Loads the native libraries, and records why one could not be loaded.

Importing this module never raises and never initialises CUDA: loading a library only registers its operators.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastclr._build_plan import REINSTALL

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


@dataclass(frozen=True)
class LibraryStatus:
    """State of one native library.

    Args:
        target: ``host``, ``cpu`` or ``cuda``, as in the build plan.
        path: the library's file.
        loaded: whether it can be used in this process.
        reason: what it was built with, or why it cannot be used.
        remedy: the command that fixes it; empty if there is nothing to fix.
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


def _load(target: str, file: str) -> LibraryStatus:
    """Load one library and report the result."""
    path = PACKAGE / file
    built: dict[str, Any] = build_record().get("targets", {}).get(target, {})
    if not path.exists():
        return LibraryStatus(
            target,
            path,
            False,
            f"not built: {built.get('reason', 'no build record')}",
            built.get("remedy") or REINSTALL,
        )
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        return LibraryStatus(target, path, False, f"built, but cannot be loaded: {error}", REINSTALL)
    return LibraryStatus(target, path, True, f"built with {built.get('reason', 'an unrecorded toolchain')}", "")


def _host() -> LibraryStatus:
    """Import the pybind11 module and report the result."""
    built: dict[str, Any] = build_record().get("targets", {}).get("host", {})
    try:
        host = importlib.import_module("fastclr._host")
    except ImportError as error:
        present = sorted(PACKAGE.glob("_host.*"))
        reason = f"built, but cannot be imported: {error}" if present else f"not built: {built.get('reason', error)}"
        path = present[0] if present else PACKAGE / "_host.so"
        return LibraryStatus("host", path, False, reason, built.get("remedy") or REINSTALL)
    return LibraryStatus("host", Path(str(host.__file__)), True, f"built with {host.build_info()['compiler']}", "")


def _load_cuda(cpu: LibraryStatus) -> LibraryStatus:
    """Load the CUDA library, which implements operators that the CPU library declares."""
    path = PACKAGE / "_C_cuda.so"
    if not cpu.loaded:
        return LibraryStatus("cuda", path, False, f"the cpu library is missing: {cpu.reason}", cpu.remedy)
    if torch.version.cuda is None:
        remedy = "install a CUDA build of torch"
        return LibraryStatus("cuda", path, False, f"torch {torch.__version__} is not a CUDA build", remedy)
    return _load("cuda", "_C_cuda.so")


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
