"""The operator ``softplus_pairs`` and ``SoftplusFunction``, the autograd function around it.

:func:`softplus_pairs` is what losses call: SigLIP, NT-Logistic, the margin triplet, and pytorch-metric-learning's
NT-Xent with arbitrary labels. The operator calls the function of its name in the back end that ``impl`` names: "triton"
is fastclr.kernels, imported at the first call, and "blockwise" is softplus_blocks.py. softplus_reference.py is the
specification.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from fastclr.losses import softplus_blocks, softplus_reference
from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.row_dots import gather_tiles
from fastclr.losses.tiles import vector_dtype
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

SCHEMA = (
    "(Tensor q, Tensor k, Tensor scale, Tensor bias, Tensor? ids_q, Tensor? ids_k, Tensor? weight, str include, "
    "SymInt offset, bool by_column, str activation, str precision, int sides, str impl) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def _run(q: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rest, impl = args
    backend = import_module("fastclr.kernels") if impl == "triton" else softplus_blocks
    # autocast would round the matrix products of the blocks
    with torch.autocast(q.device.type, enabled=False):
        found: tuple[Tensor, Tensor, Tensor, Tensor] = backend.softplus_pairs(q, *rest)
    return found


def _fake(q: Tensor, k: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sides, impl = args[-2:]
    rows, wide = (torch.float32,) * 2 if impl == "triton" else (q.dtype, vector_dtype(q.device))
    loss = q.new_empty(q.shape[0], dtype=wide)
    slope = q.new_empty(q.shape[0] if sides else 0, dtype=wide)
    dq, dk = (
        q.new_empty(q.shape if sides else (0,), dtype=rows),
        k.new_empty(k.shape if sides > 1 else (0,), dtype=rows),
    )
    return loss, slope, dq, dk


torch.library.define("fastclr::softplus_pairs", SCHEMA, tags=torch.Tag.pt2_compliant_tag)
torch.library.impl("fastclr::softplus_pairs", "default", _run)
torch.library.register_fake("fastclr::softplus_pairs", _fake)
softplus_op = torch.ops.fastclr.softplus_pairs.default


class SoftplusOptions(NamedTuple):
    """Everything but the tensors; checked by the loss that calls."""

    include: str = "all"
    """As in :func:`fastclr.losses.softplus_reference.softplus_pairs`."""
    activation: str = "softplus"
    """"softplus" or "hinge"."""
    reduce: bool = True
    """The sum over the rows, whose gradient the forward computes with it; else the rows, computed again backward."""
    precision: str = "auto"
    """For "triton" without "auto", and "bf16" or "fp16" round the rows."""
    impl: str = "blockwise"
    """"triton", "blockwise" or "reference"."""
    group: ProcessGroup | None = None
    """Ranks whose rows are the columns; None on one process."""
    deterministic: bool = False
    """Bitwise reproducible: the blocks always are."""


def softplus_pairs(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    bias: Tensor,
    options: SoftplusOptions,
    ids: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``sum_{j included} f(scale <q_i, k_j> + bias_i)``, differentiable once in all four; O((n + m) D) memory.

    Args:
        q: ``[n, D]`` rows, float32 or float64, any device.
        k: ``[m, D]`` columns; with a group those of this rank, as many as rows, and all ranks' count.
        scale: 0-dim, in the dtype of per-row values (float64, float32 on mps).
        bias: 0-dim or ``[n]``, same dtype.
        options: see :class:`SoftplusOptions`. With a group `include` must not be of equal ids, and `reduce` set; the
            gradients of rows and columns are those of all ranks' sum, of scale and bias those of the local rows' sum.
        ids: ``[n]`` and ``[m]`` integers for includes of equal ids.

    Returns:
        ``[n]``, or its sum, in the dtype of per-row values.
    """
    if options.impl == "reference":
        rows = softplus_reference.softplus_pairs(q, k, scale, bias, options.include, ids, options.activation)
        return rows.sum() if options.reduce else rows
    ids_q, ids_k = ids if ids is not None else (None, None)
    found: Tensor = SoftplusFunction.apply(q, k, scale, bias, ids_q, ids_k, options)
    return found


class SoftplusFunction(torch.autograd.Function):
    """``(q, k, scale, bias, ids_q, ids_k, options) -> loss``, per row or summed; first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        bias: Tensor,
        ids_q: Tensor | None,
        ids_k: Tensor | None,
        options: SoftplusOptions,
    ) -> Tensor:
        """Loss ``[n]`` or its sum, of the rows of this rank."""
        needed = ctx.needs_input_grad
        sides = (2 if needed[1] else int(any(needed[:4]))) if options.reduce else 0
        columns, offset = k, 0
        kinds, impl = (options.activation, options.precision), options.impl
        if options.group is not None:
            sent = (options.group, options.precision, impl)
            columns, offset = gather_tiles(k, *sent), distributed.get_rank(options.group) * len(q)
        forward = min(sides, 1) if options.group is not None else sides
        loss, *gradients = softplus_op(
            q, columns, scale, bias, ids_q, ids_k, None, options.include, offset, False, *kinds, forward, impl
        )
        if options.group is not None and sides > 1:
            # this rank's columns against the rows of all ranks, so that nothing is communicated in the backward
            every_bias = bias if bias.dim() == 0 else gather_rows(bias, options.group)
            rows = gather_tiles(q, *sent)
            gradients[2] = softplus_op(
                k, rows, scale, every_bias, ids_k, ids_q, None, options.include, offset, True, *kinds, 1, impl
            )[2]
        ctx.save_for_backward(q, k, scale, bias, ids_q, ids_k, *gradients)
        ctx.options = options
        wide = vector_dtype(q.device)
        result: Tensor = loss.sum(dtype=wide) if options.reduce else loss.to(wide)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, columns, scale and bias."""
        compute = partial(_gradients, options=ctx.options, needed=ctx.needs_input_grad, ids=ctx.saved_tensors[4:6])
        q, k, scale, bias, _, _, *gradients = ctx.saved_tensors
        found = once_differentiable(compute, grads[0], q, k, scale, bias, *gradients)
        chosen = (value if needed else None for value, needed in zip(found, ctx.needs_input_grad, strict=False))
        return (*chosen, None, None, None)


def _gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    bias: Tensor,
    *gradients: Tensor,
    options: SoftplusOptions,
    needed: tuple[bool, ...],
    ids: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, ...]:
    slope, dq, dk = gradients
    if options.reduce:
        slope, dq = slope * grad, dq * grad.to(q.dtype)
        dk = dk * grad.to(q.dtype)
    else:
        _, slope, dq, dk = softplus_op(
            q, k, scale, bias, *ids, grad, options.include, 0, False, options.activation, options.precision,
            2 if needed[1] else 1, options.impl,
        )  # fmt: skip
    dscale = torch.linalg.vecdot(dq.to(scale.dtype), q.to(scale.dtype)).sum()
    factor = scale.to(q.dtype)
    return dq * factor, dk * factor, dscale, slope.sum() if bias.dim() == 0 else slope
