"""Triton kernels and their launchers; installed as ``fastclr.kernels``. Importing this does not import Triton."""

from __future__ import annotations

import importlib
from typing import Any

# launcher -> module; a module with the name of a launcher would shadow it
_LAUNCHERS = {
    "lse_bwd": "lse_backward",
    "lse_fwd": "lse_forward",
    "ntxent_prologue": "ntxent_normalize",
    "ntxent_fwd": "ntxent_forward",
    "ntxent_bwd": "ntxent_backward",
    "softplus_pairs": "softplus_forward",
}
__all__ = ["lse_bwd", "lse_fwd", "ntxent_bwd", "ntxent_fwd", "ntxent_prologue", "softplus_pairs"]


def __getattr__(name: str) -> Any:
    """Import a launcher, and Triton with it, on first use."""
    if name not in _LAUNCHERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if __name__ == "kernels":
        # the repository root on sys.path shadows another distribution of this name. Whoever looks whether it is
        # installed, as transformers does, finds a module without a version
        raise ImportError("these are fastclr's kernels: install the package and import `fastclr.kernels`")
    return getattr(importlib.import_module(f".{_LAUNCHERS[name]}", __name__), name)
