"""LARS, as in the paper's code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (LARS), following the paper's code.

    For every parameter w with gradient g

        g <- g + weight_decay w
        trust = eta |w| / |g|     (1 if either norm is 0)
        v <- momentum v + lr trust g
        w <- w - v                (nesterov: w <- w - (momentum v + lr trust g))

    A group with ``adapt=False`` has trust = 1. The paper gives biases and batch norms neither adaptation nor decay:
    ``{"params": ..., "weight_decay": 0.0, "adapt": False}``, as `build_optimizer` does.

    timm's ``Lars`` is a different algorithm: its velocity excludes lr, so a change of lr rescales the whole history,
    and its trust divides by |g| + weight_decay |w|, an upper bound of the norm above.

    Args:
        params: parameters or parameter groups, float32 or float64; each group must be on one device.
        lr: learning rate, a number or a 0-dim tensor (whose value can change between CUDA graph replays).
        momentum: decay of v, in [0, 1).
        weight_decay: at least 0.
        eta: the trust coefficient, above 0.
        nesterov: use Nesterov momentum, which looks ahead by one step of v.

    Raises:
        TypeError: a parameter is neither float32 nor float64.
        ValueError: a number is out of its range.

    A step never synchronises with the device. The state is one tensor v per parameter, in the parameter's dtype.

    Source: You et al. 2017, arXiv:1708.03888; google-research/simclr, ``lars_optimizer.py`` (``classic_momentum``).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        nesterov: bool = False,
    ) -> None:
        checks = [
            ("lr", isinstance(lr, Tensor) or 0 <= lr < math.inf, "a number of at least 0", lr),
            ("momentum", 0 <= momentum < 1, "a number in [0, 1)", momentum),
            ("weight_decay", 0 <= weight_decay < math.inf, "a number of at least 0", weight_decay),
            ("eta", 0 < eta < math.inf, "a positive number", eta),
            ("nesterov", not nesterov or momentum > 0, "False without momentum", nesterov),
        ]
        for name, good, expected, value in checks:
            if not good:
                raise ValueError(f"{name} must be {expected}, got {value!r}")
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "nesterov": nesterov}
        super().__init__(params, {**numbers, "adapt": True})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; raises TypeError if a parameter is neither float32 nor float64."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in (torch.float32, torch.float64):
                raise TypeError(f"LARS takes float32 or float64 parameters, got {p.dtype}: use autocast instead")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the value of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        velocities = [self.state[p]["momentum_buffer"] for p in params]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        if group["adapt"]:
            weight_norms = torch.stack(torch._foreach_norm(params))
            grad_norms = torch.stack(torch._foreach_norm(grads))
            trust = torch.where((weight_norms > 0) & (grad_norms > 0), group["eta"] * weight_norms / grad_norms, 1.0)
            steps = torch._foreach_mul(grads, (trust * group["lr"]).unbind())
        else:
            steps = torch._foreach_mul(grads, group["lr"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps)
        if group["nesterov"]:
            torch._foreach_add_(steps, velocities, alpha=group["momentum"])
            torch._foreach_sub_(params, steps)
        else:
            torch._foreach_sub_(params, velocities)
