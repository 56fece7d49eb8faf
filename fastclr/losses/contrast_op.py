"""The contrastive operators and ``NTXentFunction``, the autograd function around them, which nt_xent.py applies.

Each operator calls the function of its name in the back end that ``impl`` names: "triton" is fastclr.kernels, which
imports Triton at the first call, "gluon" its ntxent_gluon.py, and "blockwise" is contrast_blocks.py. The operators
themselves have no autograd: :class:`NTXentFunction` costs less per call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from fastclr.losses import contrast_blocks, tiles
from fastclr.losses.inputs import reduce_rows
from fastclr.losses.once_differentiable import once_differentiable
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


SCHEMAS = {
    "ntxent_prologue": "(Tensor z0, Tensor z1, bool normalize, str precision, str impl) -> (Tensor, Tensor, Tensor)",
    "ntxent_fwd": (
        "(Tensor z, Tensor columns, Tensor positive, Tensor temperature, SymInt offset, str shift, str precision, "
        "bool deterministic, bool stats, str impl) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "ntxent_bwd": (
        "(Tensor z0, Tensor z1, Tensor z, Tensor columns, Tensor inv_norm, Tensor positive, Tensor loss, Tensor lse, "
        "Tensor? weight, Tensor scale, Tensor temperature, SymInt offset, bool normalize, str shift, str precision, "
        "str impl) -> (Tensor, Tensor, Tensor)"
    ),
}

KERNELS = {"triton": "fastclr.kernels", "gluon": "fastclr.kernels.ntxent_gluon"}


def _dispatch(name: str) -> Callable[..., Any]:
    """Return an operator's implementation: it calls the back end named by the last argument with the others."""

    def call(first: Tensor, *args: Any) -> Any:
        *rest, impl = args
        backend = getattr(import_module(KERNELS[impl]) if impl in KERNELS else contrast_blocks, name)
        device = first.device.type
        if not torch.is_autocast_enabled(device):
            return backend(first, *rest)
        # the dtypes are settled by now: autocast would round the matrix products of the blocks
        with torch.autocast(device, enabled=False):
            return backend(first, *rest)

    return call


def _fake_prologue(z0: Tensor, z1: Tensor, normalize: bool, precision: str, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    pairs, dim = z0.shape
    compute = tiles.compute_dtype(z0.dtype)
    rows = torch.bfloat16 if precision == "bf16" and z0.dtype == torch.float32 else z0.dtype
    z = z0.new_empty((2 * pairs, dim), dtype=rows if impl in KERNELS else compute)
    per_row = torch.float32 if impl in KERNELS else tiles.vector_dtype(z0.device)
    return z, z0.new_empty(2 * pairs, dtype=per_row), z0.new_empty(pairs, dtype=per_row)


def _fake_fwd(
    z: Tensor, columns: Tensor, positive: Tensor, temperature: Tensor, offset: int, shift: str, precision: str,
    deterministic: bool, stats: bool, impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows = z.shape[0]
    loss, lse = positive.new_empty(rows), positive.new_empty(rows)
    correct, entropy = positive.new_empty(rows if stats else 0), positive.new_empty(rows if stats else 0)
    return loss, lse, correct, entropy


def _fake_bwd(z0: Tensor, z1: Tensor, z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dot = z0.new_empty(z.shape[0], dtype=tiles.compute_dtype(z0.dtype))
    return z0.new_empty(z0.shape), z1.new_empty(z1.shape), dot


for _name, _fake in (("ntxent_prologue", _fake_prologue), ("ntxent_fwd", _fake_fwd), ("ntxent_bwd", _fake_bwd)):
    torch.library.define(f"fastclr::{_name}", SCHEMAS[_name], tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"fastclr::{_name}", "default", _dispatch(_name))
    torch.library.register_fake(f"fastclr::{_name}", _fake)


# calling one of these runs _dispatch, hence the back end's function of the same name
ntxent_prologue = torch.ops.fastclr.ntxent_prologue.default
ntxent_fwd = torch.ops.fastclr.ntxent_fwd.default
ntxent_bwd = torch.ops.fastclr.ntxent_bwd.default


class NTXentOptions(NamedTuple):
    """Everything but the tensors, with "auto" resolved; checked by the caller, :func:`fastclr.nt_xent`."""

    impl: str
    """"triton", "gluon" or "blockwise"."""
    normalize: bool
    reduction: str
    """"mean", "sum" or "none"."""
    precision: str
    """"ieee", "tf32", "tf32x3" or "bf16"."""
    shift: str
    """"fixed", "online" or "runtime"."""
    deterministic: bool
    stats: bool
    group: ProcessGroup | None
    """Ranks to gather over; None on one process."""


class NTXentFunction(torch.autograd.Function):
    """``(z0, z1, temperature, options) -> (loss, correct, entropy)``; the loss has first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any, z0: Tensor, z1: Tensor, temperature: Tensor, options: NTXentOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss reduced over the local rows; correct and entropy ``[m]``, or ``[0]`` without stats."""
        impl, normalize, reduction, precision, shift, deterministic, stats, group = options
        z, inv_norm, positive = ntxent_prologue(z0, z1, normalize, precision, impl)
        columns, offset = z, 0
        if group is not None:
            columns, offset = gather_rows(z, group), distributed.get_rank(group) * z.shape[0]
        loss, lse, correct, entropy = ntxent_fwd(
            z, columns, positive, temperature, offset, shift, precision, deterministic, stats, impl
        )
        # with the lse of all columns, each rank can compute the full gradient of its rows without communication
        every_lse = lse if group is None else gather_rows(lse, group)
        ctx.save_for_backward(z0, z1, z, columns, inv_norm, positive, loss, every_lse, temperature)
        ctx.options, ctx.offset = options, offset
        ctx.set_materialize_grads(False)
        dtype = tiles.compute_dtype(z0.dtype)
        loss, correct, entropy = reduce_rows(loss, reduction).to(dtype, copy=True), correct.to(dtype), entropy.to(dtype)
        ctx.mark_non_differentiable(correct, entropy)
        return loss, correct, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients with respect to both views and the temperature."""
        grad = grads[0]
        if grad is None:
            return None, None, None, None
        compute = partial(_gradients, options=ctx.options, offset=ctx.offset)
        dz0, dz1, dtemperature = once_differentiable(compute, grad, *ctx.saved_tensors)
        return dz0, dz1, dtemperature if ctx.needs_input_grad[2] else None, None


def _gradients(grad: Tensor, *saved: Tensor, options: NTXentOptions, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the reduced loss w.r.t. z0, z1 and the temperature, times the world size, which DDP divides by."""
    z0, z1, z, columns, inv_norm, positive, loss, lse, temperature = saved
    weight, scale = None, grad.to(loss.dtype)
    if options.reduction == "mean":
        scale = scale / z.shape[0]
    elif options.reduction == "none":
        # weights of at most 1 and a separate magnitude keep the kernels' half precision in range
        scale = grad.abs().amax().to(loss.dtype).clamp_min(torch.finfo(loss.dtype).tiny)
        weight = grad.to(loss.dtype) / scale
    elif options.group is not None:
        scale = scale * (columns.shape[0] // z.shape[0])
    dz0, dz1, dot = ntxent_bwd(
        z0, z1, z, columns, inv_norm, positive, loss, lse, weight, scale, temperature, offset,
        options.normalize, options.shift, options.precision, options.impl,
    )  # fmt: skip
    return dz0, dz1, (dot.sum(dtype=loss.dtype) / (-2.0 * temperature)).to(temperature.dtype)
