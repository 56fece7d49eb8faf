"""The cases for compute-sanitizer run in the interpreter, too, and launch every kernel of the loss."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import triton
from gpu import sanitize_cases

import fastclr.kernels


def kernels() -> set[str]:
    """Names of all kernels that are launched from Python; Gluon has no interpreter."""
    found = set()
    for module in pkgutil.iter_modules(fastclr.kernels.__path__):
        if module.name not in ("tile_table", "tune", "ntxent_gluon"):
            members = vars(importlib.import_module(f"fastclr.kernels.{module.name}"))
            found |= {name for name, value in members.items() if hasattr(value, "run") and name.endswith("_kernel")}
    return found


def test_cases_of_the_loss_launch_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = set()
    original = triton.runtime.interpreter.InterpretedFunction.run

    def run(self, *args, **kwargs):
        launched.add(self.fn.__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(triton.runtime.interpreter.InterpretedFunction, "run", run)
    monkeypatch.setattr("fastclr.kernels.ntxent_forward.TRIANGULAR_FROM_ROWS", 128)
    names = []
    for name, call in sanitize_cases.loss_cases("cpu", few=True):
        call()
        names.append(name)
    assert len(names) == len(set(names)) and len(names) >= 12
    assert launched == kernels() and len(launched) >= 7


def test_cases_of_the_augmentation() -> None:
    calls = dict(sanitize_cases.augment_cases("cpu"))
    assert len(calls) > 90
    for call in calls.values():
        call()
