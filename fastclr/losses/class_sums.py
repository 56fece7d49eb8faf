"""Classes numbered from labels, their sizes, and the sums of their rows."""

from __future__ import annotations

import torch
from torch import Tensor


def number_classes(labels: Tensor) -> Tensor:
    """Number the labels from 0 up, each -1 by a number of its own; shapes do not depend on the data, unlike unique."""
    values, order = labels.sort(stable=True)
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[1:] = (values[1:] != values[:-1]) | (values[1:] == -1)
    numbers = torch.empty_like(labels)
    numbers[order] = starts.cumsum(0) - 1
    return numbers


def class_sizes(classes: Tensor) -> Tensor:
    """``[M]`` int64: how many of ``[M]`` classes are c, for every c below M."""
    # sums of integers do not depend on their order
    return torch.zeros_like(classes).index_add(0, classes, torch.ones_like(classes))


def class_sums(rows: Tensor, classes: Tensor, deterministic: bool) -> Tensor:
    """``sums_c``, the sum of the rows ``[M, D]`` of class c, for every c below M, with gradient.

    Args:
        rows: floating-point.
        classes: int64 ``[M]``, below M.
        deterministic: always in the order of the rows. On CUDA index_add adds in any order.
    """
    if not deterministic or rows.device.type == "cpu":
        return torch.zeros_like(rows).index_add(0, classes, rows)
    return ordered_sums(rows, classes)


def ordered_sums(rows: Tensor, classes: Tensor) -> Tensor:
    """:func:`class_sums` where every sum is one thread's, in the order of the rows."""
    order = classes.argsort(stable=True)
    return torch.segment_reduce(rows[order], "sum", lengths=class_sizes(classes), axis=0, unsafe=True, initial=0.0)
