"""Numbers that a loss takes at a call: factors and offsets, as numbers or tensors."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.losses.tiles import vector_dtype


def scalar(name: str, value: Any, rows: Tensor, *, zero: bool = False) -> Tensor:
    """The value as a 0-dim tensor beside the rows, in the dtype of per-row values, with its gradient if it has one.

    Args:
        name: for messages.
        value: a number, NumPy's included, or a floating tensor of one element on the device of the rows. Tensors on a
            device are not checked, which would synchronise, nor those that are being traced.
        rows: what it is used with.
        zero: whether 0 is allowed.

    Raises:
        TypeError: `value` is not a number or a tensor.
        ValueError: it is not finite, or 0, or the tensor has another shape, dtype or device.
    """
    wide = vector_dtype(rows.device)
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number or a 0-dim tensor, got {type(value).__name__}")
        check_number(name, float(value), zero)
        return torch.full((), float(value), dtype=wide, device=rows.device)
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"{name} must be a number or a 0-dim floating tensor, got {list(value.shape)} {value.dtype}")
    if value.device != rows.device:
        raise ValueError(f"{name} must be on the device of the rows, {rows.device}, got {value.device}")
    if type(value) in (Tensor, nn.Parameter) and value.device.type == "cpu" and not torch.compiler.is_compiling():
        check_number(name, value.item(), zero)
    return value.reshape(()).to(wide)


def check_number(name: str, value: float, zero: bool) -> None:
    """Raise a ValueError unless the number is finite and, unless allowed, not 0."""
    if not -math.inf < value < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
    if value == 0 and not zero:
        raise ValueError(f"{name} must not be 0")
