"""Checks of what the losses of rows are called with, rows, labels and ids, and functions of logarithms of sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastclr.losses.inputs import DTYPES


def check_rows(inputs: dict[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Raise unless all are ``[., D]`` with one D >= 1, of one floating dtype, on one device, the first not empty.

    With a group it may be empty, as for `fastclr.losses.inputs.check_views`.
    """
    for name, rows in inputs.items():
        if not isinstance(rows, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(rows).__name__}")
        if rows.dtype not in DTYPES or rows.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense float32, float64, float16 or bfloat16 tensor, got {rows.dtype} {rows.layout}"
            )
    first_name, first = next(iter(inputs.items()))
    if first.dim() != 2 or 0 in first.shape[group is not None :]:
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
