"""The operator ``lse``: log-sum-exps of the rows, and of the columns, of a similarity matrix that nobody stores.

:func:`lse` applies ``LSEFunction``, whose operators ``lse_fwd`` and ``lse_bwd`` call the function of their name in the
back end that ``impl`` names: "triton" is fastclr.kernels, imported at the first call, and "blockwise" is lse_blocks.py.
The row-softmax losses other than NT-Xent are a few lines of autograd on the vectors that it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from fastclr.losses import lse_blocks, lse_reference, tiles
from fastclr.losses.once_differentiable import once_differentiable
from fastclr.losses.row_dots import gather_tiles
from fastclr.losses.row_inputs import log_add
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PAIRS = "Tensor q, Tensor? k, Tensor scale, Tensor? row_ids, Tensor? column_ids, Tensor? limit"
SCHEMAS = {
    "lse_fwd": (
        f"({_PAIRS}, str exclude, SymInt offset, bool both, str shift, str precision, bool deterministic, str impl) "
        "-> (Tensor, Tensor)"
    ),
    "lse_bwd": (
        f"({_PAIRS}, Tensor row_lse, Tensor row_grad, Tensor? column_lse, Tensor? column_grad, str exclude, "
        "SymInt offset, str wanted, str shift, str precision, str impl) -> (Tensor, Tensor)"
    ),
}


def _dispatch(name: str) -> Callable[..., Any]:
    """Return an operator's implementation: it calls the back end named by the last argument with the others."""

    def call(q: Tensor, *args: Any) -> Any:
        *rest, impl = args
        backend = getattr(import_module("fastclr.kernels") if impl == "triton" else lse_blocks, name)
        device = q.device.type
        if not torch.is_autocast_enabled(device):
            return backend(q, *rest)
        # the dtypes are settled by now: autocast would round the matrix products of the blocks
        with torch.autocast(device, enabled=False):
            return backend(q, *rest)

    return call


def _fake_fwd(q: Tensor, k: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    both, impl = rest[6], rest[10]
    dtype = torch.float32 if impl == "triton" else tiles.vector_dtype(q.device)
    columns = k.shape[0] if k is not None and both else 0
    return q.new_empty(q.shape[0], dtype=dtype), q.new_empty(columns, dtype=dtype)


def _fake_bwd(q: Tensor, k: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    wanted, impl, dim = rest[10], rest[13], q.shape[1]
    dtype = torch.float32 if impl == "triton" else q.dtype
    dq = q.new_empty(q.shape if wanted != "k" else (0, dim), dtype=dtype)
    return dq, q.new_empty(k.shape if k is not None and wanted != "q" else (0, dim), dtype=dtype)


for _name, _fake in (("lse_fwd", _fake_fwd), ("lse_bwd", _fake_bwd)):
    torch.library.define(f"fastclr::{_name}", SCHEMAS[_name], tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"fastclr::{_name}", "default", _dispatch(_name))
    torch.library.register_fake(f"fastclr::{_name}", _fake)


# calling one of these runs _dispatch, hence the back end's function of the same name
lse_fwd = torch.ops.fastclr.lse_fwd.default
lse_bwd = torch.ops.fastclr.lse_bwd.default


class LSEOptions(NamedTuple):
    """Everything but the tensors, with "auto" resolved; checked by the caller."""

    impl: str
    """"triton", "blockwise" or "reference"."""
    shift: str
    """"fixed", "online" or "runtime"."""
    precision: str
    """"ieee", "tf32", "tf32x3" or "bf16"; for the Triton back end also "fp16": rows are rounded to it."""
    deterministic: bool
    group: ProcessGroup | None
    """Ranks whose rows are compared with each other; None on one process."""


def lse(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    options: LSEOptions,
    *,
    exclude: str = "nothing",
    ids: tuple[Tensor, Tensor | None] | None = None,
    limit: Tensor | None = None,
    both: bool = False,
) -> tuple[Tensor, Tensor]:
    """``log sum_j exp(s_ij)`` of every row i, and of every column j over the rows, with ``s = scale Q K^T``.

    Over a process group these are the rows and columns of all ranks, in rank order, on every rank, so that their
    gradient needs no communication; q and k get the gradient of this rank's share, and scale its share of the sum.

    Args:
        q: Q ``[n, D]``, float32 or float64, of this rank.
        k: K ``[m, D]`` like q, or None for q itself.
        scale: 0-dim, with or without gradient; not 0.
        options: see :class:`LSEOptions`.
        exclude: the pairs that do not count: "nothing", "self" (i = j), "pair" (self, and the other of the two views
            stacked in Q), "equal" (equal ids) or "other" (other ids, and self). "pair" needs k None.
        ids: int64 ``[n]`` and ``[m]`` of this rank, for "equal" and "other"; None for the columns stands for the same.
        limit: ``[n]``: pairs with ``s_ij > limit_i`` do not count. Needs k.
        both: compute the second result, which is ``[0]`` otherwise. Needs k.

    Returns:
        ``[n]`` and ``[m]`` of all ranks, in float64 (Triton: float32); -inf where nothing counts.
    """
    row_ids, column_ids = (None, None) if ids is None else ids
    if options.impl == "reference":
        others = row_ids if column_ids is None else column_ids
        rows, columns = lse_reference.lse(q, q if k is None else k, scale, row_ids, others, limit, exclude)
        return rows, columns if both else columns[:0]
    limit = None if limit is None else limit.detach()
    found: tuple[Tensor, Tensor] = LSEFunction.apply(q, k, scale, row_ids, column_ids, limit, exclude, both, options)
    return found


class LSEFunction(torch.autograd.Function):
    """The autograd function behind :func:`lse`, with the same arguments; it has first derivatives only."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor | None,
        scale: Tensor,
        row_ids: Tensor | None,
        column_ids: Tensor | None,
        limit: Tensor | None,
        exclude: str,
        both: bool,
        options: LSEOptions,
    ) -> tuple[Tensor, Tensor]:
        """Log-sum-exps of the rows and columns of all ranks."""
        impl, shift, precision, deterministic, group = options
        how = (shift, precision, deterministic, impl)
        # not the same tensor twice among the arguments, which Dynamo refuses
        column_ids = row_ids if column_ids is None else column_ids
        ctx.exclude, ctx.both, ctx.options, ctx.rank = exclude, both, options, 0
        if group is None:
            rows, columns = lse_fwd(q, k, scale, row_ids, column_ids, limit, exclude, 0, both, *how)
            ctx.save_for_backward(q, k, scale, row_ids, column_ids, limit, rows, columns)
            return rows, columns
        ctx.rank = distributed.get_rank(group)
        offset, every_q = ctx.rank * q.shape[0], gather_tiles(q, group, precision, impl)
        every_k = every_q if k is None else gather_tiles(k, group, precision, impl)
        row_ids, column_ids, limit = (
            None if x is None else gather_rows(x, group) for x in (row_ids, column_ids, limit)
        )
        mine = [None if x is None else _own(x, ctx.rank, len(q)) for x in (row_ids, limit)]
        rows, columns = lse_fwd(q, every_k, scale, mine[0], column_ids, mine[1], exclude, offset, False, *how)
        if both and k is not None:
            mine_too = None if column_ids is None else _own(column_ids, ctx.rank, len(k))
            columns, _ = lse_fwd(k, every_q, scale, mine_too, row_ids, None, exclude, offset, False, *how)
            columns = gather_rows(columns, group)
        rows = gather_rows(rows, group)
        ctx.save_for_backward(q, k, scale, row_ids, column_ids, limit, rows, columns, every_q, every_k)
        return rows, columns

    @staticmethod
    def backward(ctx: Any, row_grad: Tensor, column_grad: Tensor) -> tuple[Any, ...]:
        """Gradients with respect to q, k and scale."""
        wants = ctx.needs_input_grad[:3]
        compute = partial(
            _gradients, exclude=ctx.exclude, both=ctx.both, options=ctx.options, rank=ctx.rank, wants=wants
        )
        dq, dk, dscale = once_differentiable(compute, row_grad, column_grad, *ctx.saved_tensors)
        return dq if wants[0] else None, dk if wants[1] else None, dscale if wants[2] else None, *(None,) * 6


def _own(rows: Tensor, rank: int, count: int) -> Tensor:
    """This rank's share of the rows of all ranks."""
    return rows[rank * count : (rank + 1) * count]


def _gradients(
    row_grad: Tensor,
    column_grad: Tensor,
    *saved: Tensor,
    exclude: str,
    both: bool,
    options: LSEOptions,
    rank: int,
    wants: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and scale; without k, dq is that of the rows in both their roles."""
    q, k, scale, row_ids, column_ids, limit, rows, columns, *every = saved
    how = (options.shift, options.precision, options.impl)
    wants_q = wants[0] or wants[2]
    column_terms = (columns, column_grad) if both else (None, None)
    if options.group is None:
        wanted = "both" if wants_q and wants[1] else "q" if wants_q else "k"
        pairs = (q, k, scale, row_ids, column_ids, limit)
        dq, dk = lse_bwd(*pairs, rows, row_grad, *column_terms, exclude, 0, wanted, *how)
    else:
        every_q, every_k = every
        own = partial(_own, rank=rank, count=len(q))
        mine = [None if x is None else own(x) for x in (row_ids, limit)]
        if k is None:
            column_terms = rows, row_grad
        dq = dk = q.new_zeros((0, q.shape[1]))
        if wants_q:
            pairs = (q, every_k, scale, mine[0], column_ids, mine[1])
            terms = (own(rows), own(row_grad), *column_terms)
            dq, _ = lse_bwd(*pairs, *terms, exclude, rank * len(q), "q", *how)
        if wants[1]:
            own = partial(_own, rank=rank, count=len(k))
            pairs = (every_q, k, scale, row_ids, None if column_ids is None else own(column_ids), limit)
            terms = (rows, row_grad, *(None if x is None else own(x) for x in column_terms))
            _, dk = lse_bwd(*pairs, *terms, exclude, -rank * len(k), "k", *how)
    total = torch.linalg.vecdot(dq, q).sum(dtype=row_grad.dtype) if wants[2] else scale.new_zeros((), dtype=q.dtype)
    dscale = total / scale if k is not None else total / (2.0 * scale)
    return dq, dk, dscale.to(scale.dtype)


@torch.no_grad()
def soft_means(q: Tensor, blocks: Sequence[Tensor], scale: Tensor, options: LSEOptions) -> Tensor:
    """``sum_j softmax_j(scale <q_i, k_j>) k_j`` over the rows k of all blocks, without gradient.

    It is the gradient of a row's log-sum-exp over the scale, which the operators compute without an ``[n, m]`` matrix.

    Args:
        q: ``[n, D]``, float32 or float64.
        blocks: ``[m, D]`` each, like q; at least one row in all.
        scale: 0-dim; not 0.
        options: see :class:`LSEOptions`; of one process.

    Returns:
        ``[n, D]`` like q.
    """
    if options.impl == "reference":
        k = torch.cat(list(blocks))
        return (q @ k.T * scale.to(q.dtype)).softmax(1) @ k
    impl, shift, precision, deterministic, _ = options
    pairs = "nothing", 0
    parts = [
        lse_fwd(q, k, scale, None, None, None, *pairs, False, shift, precision, deterministic, impl)[0] for k in blocks
    ]
    rows = log_add(*parts)
    how = (rows, torch.ones_like(rows), None, None, *pairs, "q", shift, precision, impl)
    pulls = [lse_bwd(q, k, scale, None, None, None, *how)[0] for k in blocks]
    return torch.stack(pulls).sum(0).div_(scale.to(q.dtype))
