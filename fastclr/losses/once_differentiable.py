"""Gradients that raise, instead of coming out wrong, when they are differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Gradients = TypeVar("Gradients", bound=tuple[Tensor | None, ...])


class _RefuseBackward(torch.autograd.Function):
    """Compute gradients as a node of the graph whose own backward raises."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Gradients], *tensors: Tensor | None) -> Gradients:
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("this fused loss is differentiable once; with impl='reference' it has second derivatives")


def once_differentiable(compute: Callable[..., Gradients], *tensors: Tensor | None) -> Gradients:
    """Call compute on the tensors; under create_graph, a second derivative of the result raises.

    ``torch.autograd.function.once_differentiable`` raises only if the incoming gradient has a graph. A loss's incoming
    gradient is a constant, so its second derivative with respect to the inputs would silently be zero.
    """
    if not torch.is_grad_enabled():
        return compute(*tensors)
    results: Gradients = _RefuseBackward.apply(compute, *tensors)
    return results
