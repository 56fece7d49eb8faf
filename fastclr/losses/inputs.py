"""What all losses share, in plain torch: input checks, row functions, and the resolution of "auto" options."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastclr.losses.scalars import FACTOR, as_number, check_number

Reduction = Literal["mean", "sum", "none"]
Precision = Literal["auto", "ieee", "tf32", "tf32x3", "bf16"]
Impl = Literal["auto", "triton", "blockwise", "reference"]
REDUCTIONS, PRECISIONS, IMPLS = get_args(Reduction), get_args(Precision), get_args(Impl)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


# float32 exponents need no running maxima while 2/|tau| + ln M <= 175; this is that bound on tau for any M up to 2^32
FIXED_SHIFT_TEMPERATURE = 2.0 / (175.0 - 32.0 * math.log(2.0))
MATMUL_PRECISION = {"highest": "ieee", "high": "tf32", "medium": "bf16"}
# precisions to which the kernels of lse and softplus_pairs round the rows
HALF_TILES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TRITON_FOUND = find_spec("triton") is not None


def check_views(z0: Tensor, z1: Tensor, group: ProcessGroup | None = None) -> None:
    """Raise unless both are ``[N, D]`` with N and D at least 1, of the same floating dtype, on the same device.

    With a group N may be 0: `check_same_shape` refuses that on every rank, for the others would wait for this one.
    """
    for name, view in (("z0", z0), ("z1", z1)):
        if not isinstance(view, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(view).__name__}")
        if view.dtype not in DTYPES or view.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense float32, float64, float16 or bfloat16 tensor, got {view.dtype} {view.layout}"
            )
    if z0.dim() != 2 or z0.shape != z1.shape or 0 in z0.shape[group is not None :]:
        raise ValueError(f"z0 and z1 must both be [N, D] with N, D >= 1, got {list(z0.shape)} and {list(z1.shape)}")
    if z0.dtype != z1.dtype:
        raise TypeError(f"z0 and z1 must have the same dtype, got {z0.dtype} and {z1.dtype}")
    if z0.device != z1.device:
        raise ValueError(f"z0 and z1 must be on the same device, got {z0.device} and {z1.device}")


def check_option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def temperature_tensor(temperature: float | Tensor, z0: Tensor, on_cpu: bool) -> Tensor:
    """The temperature as a 0-dim tensor of the compute dtype; a number goes to the CPU or to the device of z0."""
    dtype = torch.float64 if z0.dtype == torch.float64 else torch.float32
    if not isinstance(temperature, Tensor):
        number = as_number("temperature", temperature, FACTOR)
        check_number("temperature", number)
        return torch.full((), number, dtype=dtype, device="cpu" if on_cpu else z0.device)
    if temperature.dim() != 0 or not temperature.is_floating_point():
        raise ValueError(
            f"a temperature tensor must be 0-dim and floating, got {list(temperature.shape)} {temperature.dtype}"
        )
    if temperature.device != z0.device:
        raise ValueError(f"temperature must be on the device of z0, {z0.device}, got {temperature.device}")
    return temperature.to(dtype)


def select_impl(impl: str, z0: Tensor) -> str:
    """Resolve "auto" to an implementation; raise if an explicit choice cannot run on z0."""
    check_option("impl", impl, IMPLS)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if impl == "auto":
        return "triton" if TRITON_FOUND and z0.is_cuda and z0.dtype != torch.float64 else "blockwise"
    if impl == "triton":
        if not TRITON_FOUND:
            raise ValueError(
                "impl='triton' needs triton, which CUDA builds of torch bring (else pip install 'fastclr[triton]'), or "
                "use impl='blockwise'"
            )
        if z0.dtype == torch.float64:
            raise ValueError(
                "impl='triton' takes float32, float16 or bfloat16, got torch.float64; use impl='blockwise'"
            )
        if not z0.is_cuda and not (z0.device.type == "cpu" and interpreted):
            raise ValueError(
                f"impl='triton' needs CUDA tensors, or CPU tensors with TRITON_INTERPRET=1 set before Python starts, "
                f"got {z0.device}; use impl='blockwise'"
            )
    return impl


def matmul_precision(precision: str, dtype: torch.dtype) -> str:
    """The precision of the kernels' float32 matrix products; other dtypes are multiplied exactly."""
    if dtype != torch.float32:
        return "ieee"
    return MATMUL_PRECISION[global_precision()] if precision == "auto" else precision


def tile_precision(impl: str, precision: str, dtype: torch.dtype) -> str:
    """The precision of `impl` for rows that were given in `dtype`; the kernels' tiles keep half precision as it is."""
    if impl != "triton":
        return precision
    half = [name for name, tiles in HALF_TILES.items() if tiles == dtype]
    return half[0] if half else matmul_precision(precision, dtype)


def global_precision() -> str:
    """``torch.get_float32_matmul_precision()``; a compiled function keeps the value at compile time."""
    return torch.get_float32_matmul_precision()


# Dynamo cannot trace that call. This is torch.compiler.assume_constant_result without its import of Dynamo
global_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def exponent_shift(temperature: float | Tensor, normalize: bool) -> str:
    """How to keep exponents in range: "fixed" if tau allows it, else "online"; "runtime" if only the device knows."""
    if not normalize:
        return "online"
    if isinstance(temperature, Tensor):
        return "runtime"
    return "fixed" if abs(temperature) >= FIXED_SHIFT_TEMPERATURE else "online"


def bank_shape(size: int | Sequence[int]) -> tuple[int, int] | None:
    """(K, D) of a memory bank, or None for no bank.

    Raises:
        ValueError: `size` is neither 0 nor (K, D) with K >= 0 and D >= 1; a number alone does not tell D.
    """
    shape = (size,) if isinstance(size, int) else tuple(size)
    if shape == (0,):
        return None
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise ValueError(f"memory_bank_size must be 0 or (number of embeddings, length of an embedding), got {size}")
    return (shape[0], shape[1]) if shape[0] else None


EPS = 1e-12


def unit_rows(rows: Tensor) -> Tensor:
    """Divide every row by its length: ``u / max(|u|, 1e-12)``.

    Args:
        rows: ``[M, D]`` of any floating dtype, on any device; squares neither overflow nor underflow.

    Returns:
        ``[M, D]`` like the input. Rows no longer than 1e-12 are divided by 1e-12 and get no gradient: the direction of
        (almost) nothing is noise. ``torch.nn.functional.normalize`` returns the same value, but multiplies the
        incoming gradient of such rows by 1e12.
    """
    # dividing by the peak keeps the squares in range; it cancels out, so autograd may treat it as a constant
    peak = rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    scaled = rows / peak
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    floor = EPS / peak
    below = length <= floor
    return torch.where(below, (scaled / floor).detach(), scaled / length.masked_fill(below, 1.0))


def reduce_rows(loss: Tensor, reduction: str) -> Tensor:
    """Mean or sum of the per-row losses, or the losses themselves.

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
