"""A loss as a program of two stages, and the gate that compares its value and gradients with float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastclr.bench.rows import Attempt, Program, WrongResultError
from fastclr.bench.timing import run

LIMIT = 1e-4  # relative error of gradients and loss in float32


def forward_backward(leaves: Sequence[Tensor], compute: Callable[[], Tensor]) -> Program:
    """The stages of a loss: its value, and the gradients of the leaves, which are new in every run."""

    def forward(_: Any) -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        return compute()

    def backward(loss: Tensor) -> Tensor:
        loss.backward()
        return loss

    return {"forward": forward, "backward": backward}


def gated(
    leaves: Sequence[Tensor],
    compute: Callable[[], Tensor],
    truth: Callable[[], tuple[float, Sequence[Tensor]]],
    work: int,
) -> Attempt:
    """A loss with its gate.

    Args:
        leaves: what gets a gradient.
        compute: the loss of the leaves.
        truth: value and gradients in float64.
        work: units of one run.
    """
    program = forward_backward(leaves, compute)

    def check() -> float:
        loss = run(program)
        value, gradients = truth()
        errors = {}
        for index, (leaf, exact) in enumerate(zip(leaves, gradients, strict=True)):
            found = torch.full_like(exact, float("nan")) if leaf.grad is None else leaf.grad.double()
            errors[f"gradient {index}"] = float((found - exact).norm() / exact.norm())
        off = abs(float(loss.detach()) - value) / abs(value)
        for what, error in (*errors.items(), ("loss", off)):
            if not error <= LIMIT:
                raise WrongResultError(error, LIMIT, what)
        return max(errors.values())

    return Attempt(program, check, work)
