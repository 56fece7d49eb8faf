"""The Gram operators and ``GramFunction``, the autograd function around them, which gram.py applies.

Each operator calls the function of its name in gram_blocks.py. It returns value and gradient together, because the
gradient of a Gram loss is known up to a factor once the loss is. With a process group the function of gram_blocks.py is
called directly: an operator has no argument that a group could be.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastclr.losses import gram_blocks, tiles
from fastclr.losses.once_differentiable import once_differentiable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# the numbers of a loss: its weights and, for VICReg, eps
NUMBERS = {
    "barlow_gram": ("lambda_param",),
    "vicreg_gram": ("lambda_param", "mu_param", "nu_param", "eps"),
}
TERMS = {"barlow_gram": 2, "vicreg_gram": 3}


def _run(name: str, group: ProcessGroup | None = None, **options: Any) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return the computation behind an operator: without autocast, which would round its matrix products."""

    def call(z0: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        compute = getattr(gram_blocks, name)
        with torch.autocast(z0.device.type, enabled=False):
            found: tuple[Tensor, Tensor, Tensor] = compute(z0, *args, group=group, **options)
        return found

    return call


def _fake(name: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def call(z0: Tensor, z1: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        grads = args[-1]
        dtype = tiles.compute_dtype(z0.dtype)
        terms = z0.new_empty(TERMS[name], dtype=tiles.vector_dtype(z0.device))
        first, second = (z.new_empty(z.shape if grads else (0,), dtype=dtype) for z in (z0, z1))
        return terms, first, second

    return call


for _name, _numbers in NUMBERS.items():
    _arguments = ", ".join(f"float {number}" for number in _numbers)
    _schema = f"(Tensor z0, Tensor z1, {_arguments}, str form, str precision, bool grads) -> (Tensor, Tensor, Tensor)"
    torch.library.define(f"fastclr::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"fastclr::{_name}", "default", _run(_name))
    torch.library.register_fake(f"fastclr::{_name}", _fake(_name))

barlow_gram = torch.ops.fastclr.barlow_gram.default
vicreg_gram = torch.ops.fastclr.vicreg_gram.default


class GramOptions(NamedTuple):
    """Everything but the tensors; checked by the caller, gram.py."""

    name: str
    """"barlow_gram" or "vicreg_gram"."""
    numbers: tuple[float, ...]
    """As `NUMBERS` lists them."""
    weights: tuple[float, ...]
    """Of the terms in the loss."""
    form: str
    """"primal", "dual" or "auto"."""
    precision: str
    group: ProcessGroup | None
    """Ranks whose rows form the batch; None on one process."""
    local_statistics: bool
    """Barlow Twins over a group: mean and variance of this rank's rows only."""
    deterministic: bool = False
    """Bitwise reproducible: everything in gram_blocks.py is, where PyTorch's matrix products are."""


class GramFunction(torch.autograd.Function):
    """``(z0, z1, options) -> (loss, terms)``; the loss has first derivatives only, the terms have none."""

    @staticmethod
    def forward(ctx: Any, z0: Tensor, z1: Tensor, options: GramOptions) -> tuple[Tensor, Tensor]:
        """Loss and terms of the batch of all ranks (the invariance of VICReg: of the local rows)."""
        grads = any(ctx.needs_input_grad)
        compute: Callable[..., Any] = barlow_gram if options.name == "barlow_gram" else vicreg_gram
        if options.group is not None:
            local = {"local_statistics": True} if options.local_statistics else {}
            compute = _run(options.name, options.group, **local)
        terms, first, second = compute(z0, z1, *options.numbers, options.form, options.precision, grads)
        # the views themselves only tell once_differentiable what a second derivative would be with respect to
        ctx.save_for_backward(z0, z1, first, second)
        # averaged over the ranks by DistributedDataParallel, the gradient is that of the batch of all ranks
        ctx.size = 1 if options.group is None else torch.distributed.get_world_size(options.group)
        ctx.set_materialize_grads(False)
        loss = sum(weight * term for weight, term in zip(options.weights, terms.unbind(), strict=True))
        dtype = tiles.compute_dtype(z0.dtype)
        loss, terms = torch.as_tensor(loss).to(dtype, copy=True), terms.to(dtype, copy=True)
        ctx.mark_non_differentiable(terms)
        return loss, terms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients that the forward computed, times the incoming number."""
        grad = grads[0]
        if grad is None:
            return None, None, None
        compute = partial(_scaled, size=ctx.size)
        dz0, dz1 = once_differentiable(compute, grad, *ctx.saved_tensors)
        return dz0, dz1, None


def _scaled(grad: Tensor, z0: Tensor, z1: Tensor, first: Tensor, second: Tensor, size: int) -> tuple[Tensor, ...]:
    factor = grad.to(first.dtype) * size
    return (first * factor).to(z0.dtype), (second * factor).to(z1.dtype)
