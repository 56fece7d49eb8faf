"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Once(torch.autograd.Function):
    """Compute gradients as a node of the graph whose own backward refuses."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "this fused loss is differentiable once; nt_xent(..., impl='reference') has second derivatives"
        )


def once_differentiable(compute: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Call compute on the tensors; under create_graph make a second derivative of the result raise.

    ``torch.autograd.function.once_differentiable`` raises only if the incoming gradient has a graph. That of a loss is
    a constant, and its second derivative by the inputs would come out as zero.
    """
    if not torch.is_grad_enabled():
        return compute(*tensors)
    results: tuple[Tensor, ...] = _Once.apply(compute, *tensors)
    return results
