"""Numbers that a loss takes, at its construction or at a call: factors and offsets, as numbers or tensors."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 1e-8  # of a temperature or a scale, in magnitude
FACTOR = "a number or a 0-dim tensor"


def as_number(name: str, value: Any, expected: str = "a number") -> float:
    """The number as a float, NumPy's scalars included; a TypeError if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    return float(value)


def check_number(name: str, value: float, zero: bool = False) -> None:
    """Raise a ValueError unless the number is finite and, unless `zero` is allowed, not (almost) 0."""
    if not -math.inf < value < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
    if not zero and abs(value) < SMALLEST:
        raise ValueError(f"{name} must be at least {SMALLEST} in magnitude, got {value}")


def check_factor(name: str, factor: Tensor, zero: bool = False) -> None:
    """Raise a ValueError unless the tensor holds one floating number, which :func:`check_number` accepts.

    A tensor on a device is not read, which would synchronise, nor is one that is being traced.
    """
    if factor.numel() != 1 or not factor.is_floating_point():
        raise ValueError(f"{name} must be a number or a 0-dim floating tensor, got {list(factor.shape)} {factor.dtype}")
    readable = type(factor) in (Tensor, nn.Parameter) and factor.device.type == "cpu"
    if readable and not torch.compiler.is_compiling():
        check_number(name, factor.item(), zero)


def checked_factor(name: str, value: Any, zero: bool = False) -> float | Tensor:
    """What a module stores of a factor: the number as a float, or the tensor; errors as in :func:`factor_tensor`."""
    if isinstance(value, Tensor):
        check_factor(name, value, zero)
        return value
    number = as_number(name, value, FACTOR)
    check_number(name, number, zero)
    return number


def number_of(value: float | Tensor) -> float:
    """The number that a factor holds now."""
    return float(value.detach()) if isinstance(value, Tensor) else value


def factor_tensor(
    name: str, value: Any, rows: Tensor, dtype: torch.dtype, *, on_cpu: bool = False, zero: bool = False
) -> Tensor:
    """The value as a 0-dim tensor beside the rows, with its gradient if it has one.

    Args:
        name: for messages.
        value: a number, or a floating tensor of one element on the device of the rows.
        rows: what it is used with.
        dtype: of the result.
        on_cpu: whether a number stays on the CPU.
        zero: whether 0 is allowed.

    Raises:
        TypeError: `value` is not a number or a tensor.
        ValueError: it is not finite, or 0, or the tensor has another shape, dtype or device.
    """
    if not isinstance(value, Tensor):
        number = as_number(name, value, FACTOR)
        check_number(name, number, zero)
        return torch.full((), number, dtype=dtype, device="cpu" if on_cpu else rows.device)
    check_factor(name, value, zero)
    if value.device != rows.device:
        raise ValueError(f"{name} must be on the device of the rows, {rows.device}, got {value.device}")
    return value.reshape(()).to(dtype)
