"""Correct bfloat16 in Triton's interpreter, which multiplies bit patterns in ``tl.dot`` and truncates in casts.

As on a device, patterns are widened before a product, and casts round to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def widened(handle: TensorHandle) -> TensorHandle:
    """The float32 values of bfloat16 patterns; other handles unchanged."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def rounded(values: np.ndarray) -> TensorHandle:
    """The bfloat16 patterns nearest to some values, according to torch."""
    single = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    patterns = single.bfloat16().view(torch.int16).numpy().view(np.uint16)
    return TensorHandle(patterns.reshape(values.shape), tl.bfloat16)


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the interpreter correct bfloat16 until the end of the test."""
    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def true_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return dot(self, widened(a), widened(b), *rest)

    def true_cast(self: InterpreterBuilder, source: TensorHandle, target: Any, *rounding: Any) -> TensorHandle:
        wide = widened(source)
        return rounded(wide.data) if target.scalar == tl.bfloat16 else cast(self, wide, target)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", true_dot)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", true_cast)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_to_fp", true_cast)
