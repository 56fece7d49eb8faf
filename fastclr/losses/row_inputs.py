"""Checks of what the row-softmax losses are called with: rows, scales, labels, ids."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.losses.inputs import DTYPES, SMALLEST_TEMPERATURE


def check_rows(inputs: dict[str, Tensor]) -> None:
    """Raise unless all are ``[., D]`` with one D >= 1, of one floating dtype, on one device, the first not empty."""
    for name, rows in inputs.items():
        if not isinstance(rows, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(rows).__name__}")
        if rows.dtype not in DTYPES or rows.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense float32, float64, float16 or bfloat16 tensor, got {rows.dtype} {rows.layout}"
            )
    first_name, first = next(iter(inputs.items()))
    if first.dim() != 2 or 0 in first.shape:
        raise ValueError(f"{first_name} must be [N, D] with N, D >= 1, got {list(first.shape)}")
    for name, rows in inputs.items():
        if rows.dim() != 2 or rows.shape[1] != first.shape[1]:
            raise ValueError(f"{name} must be [M, {first.shape[1]}], as {first_name} is, got {list(rows.shape)}")
        if rows.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {rows.dtype}")
        if rows.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {rows.device}")


def check_same_rows(inputs: dict[str, Tensor]) -> None:
    """Raise a ValueError unless all have the shape of the first."""
    first_name, first = next(iter(inputs.items()))
    for name, rows in inputs.items():
        if isinstance(rows, Tensor) and rows.shape != first.shape:
            raise ValueError(f"{name} must have the shape of {first_name}, {list(first.shape)}, got {list(rows.shape)}")


def check_ids(name: str, ids: Any, rows: Tensor, count: int) -> None:
    """Raise unless `ids` are ``[count]`` integers on the device of the rows."""
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} must be a tensor of integers, got {type(ids).__name__}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    if ids.shape != (count,):
        raise ValueError(f"{name} must be [{count}], one a row, got {list(ids.shape)}")
    if ids.device != rows.device:
        raise ValueError(f"{name} must be on the device of the rows, {rows.device}, got {ids.device}")


def as_number(name: str, value: Any) -> float:
    """The number as a float, NumPy's scalars included; a TypeError if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a 0-dim tensor, got {type(value).__name__}")
    return float(value)


def check_factor(name: str, factor: Tensor) -> None:
    """Raise a ValueError unless the tensor holds one floating number: finite and not 0, where reading it is free.

    A tensor on a device is not read, which would synchronise, nor is one that is being traced.
    """
    if factor.numel() != 1 or not factor.is_floating_point():
        raise ValueError(f"{name} must be a number or a 0-dim floating tensor, got {list(factor.shape)} {factor.dtype}")
    readable = type(factor) in (Tensor, nn.Parameter) and factor.device.type == "cpu"
    if readable and not torch.compiler.is_compiling():
        check_number(name, factor.item())


def check_number(name: str, value: float) -> None:
    """Raise a ValueError unless the number is finite and not (almost) 0."""
    if not SMALLEST_TEMPERATURE <= abs(value) < math.inf:
        raise ValueError(f"{name} must be finite and at least {SMALLEST_TEMPERATURE} in magnitude, got {value}")


def factor_tensor(name: str, value: float | Tensor, rows: Tensor, on_cpu: bool, dtype: torch.dtype) -> Tensor:
    """A factor as a 0-dim tensor of `dtype`: a number goes to the CPU or to the device of the rows."""
    if not isinstance(value, Tensor):
        check_number(name, value)
        return torch.full((), value, dtype=dtype, device="cpu" if on_cpu else rows.device)
    check_factor(name, value)
    if value.device != rows.device:
        raise ValueError(f"{name} must be on the device of the rows, {rows.device}, got {value.device}")
    return value.reshape(()).to(dtype)


def check_transforms(impl: str) -> None:
    """Raise where the gradient of the fused losses would be lost: under torch.func, and in torch.export."""
    if impl == "reference":
        return
    if torch.compiler.is_exporting():
        raise ValueError("torch.export would lose the gradient of a fused loss: export it with impl='reference'")
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError("torch.func transforms need impl='reference': the fused losses support torch.autograd only")


def log_add(*logs: Tensor) -> Tensor:
    """``log sum exp`` of vectors; all of them -inf gives -inf, with gradient 0."""
    stacked = torch.stack(logs)
    top = stacked.detach().amax(0)
    empty = top == -math.inf
    top = top.masked_fill(empty, 0.0)
    total = (stacked - top).exp().sum(0)
    return torch.where(empty, -math.inf, total.masked_fill(empty, 1.0).log() + top)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``, exact for every x: that of torch is x beyond its threshold."""
    return torch.logaddexp(x, torch.zeros_like(x))
