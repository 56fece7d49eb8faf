"""NT-Xent on a CPU as one operator, which nt_xent.py prefers where it is built and covers the case.

Its C++ is csrc/cpu/contrast*: loss and gradient in the forward, over tiles that the threads share. The result does not
depend on their number. Everything else, and installations without it, takes the blocks of contrast_blocks.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.augment.native import kernels
from fastclr.losses.once_differentiable import once_differentiable

SCHEMAS = {
    # lanes: floats in a vector, 0 for the widest that the processor has
    "ntxent_cpu": (
        "(Tensor z0, Tensor z1, float temperature, bool mean, bool gradient, int lanes) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "ntxent_cpu_rows": "(Tensor z0, Tensor z1, float temperature, int lanes) -> (Tensor, Tensor)",
    "ntxent_cpu_rows_bwd": (
        "(Tensor z0, Tensor z1, Tensor terms, Tensor weight, float temperature, int lanes) -> (Tensor, Tensor, Tensor)"
    ),
}
# exp(s) of unit rows needs no shift while 1/|tau| + ln 2N <= 87.3; this is that bound on tau for any 2N up to 2^32
LOWEST_TEMPERATURE = 1.0 / (87.3 - 32.0 * math.log(2.0))


def _fake(
    z0: Tensor, z1: Tensor, temperature: float, mean: bool, gradient: bool, lanes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (z0.shape[0] if gradient else 0, z0.shape[1])
    return z0.new_empty(()), z0.new_empty(shape), z0.new_empty(shape), z0.new_empty(())


def _fake_rows(z0: Tensor, z1: Tensor, temperature: float, lanes: int) -> tuple[Tensor, Tensor]:
    rows = 2 * z0.shape[0]
    return z0.new_empty(rows), z0.new_empty((2, rows), dtype=torch.float64)


def _fake_rows_bwd(
    z0: Tensor, z1: Tensor, terms: Tensor, weight: Tensor, temperature: float, lanes: int
) -> tuple[Tensor, Tensor, Tensor]:
    return z0.new_empty(z0.shape), z0.new_empty(z0.shape), z0.new_empty(())


for _name, _shapes in (
    ("ntxent_cpu", _fake), ("ntxent_cpu_rows", _fake_rows), ("ntxent_cpu_rows_bwd", _fake_rows_bwd)
):  # fmt: skip
    torch.library.define(f"fastclr::{_name}", SCHEMAS[_name], tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(f"fastclr::{_name}", _shapes)


def _available() -> bool:
    """Whether the loaded library has the operators, which one from an older build has not, and they are fast here.

    On processors without AVX2, and on others than x86, they have not been measured: the blocks call a BLAS there.
    """
    if not kernels("cpu").loaded:
        return False
    built = torch._C._dispatch_has_kernel_for_dispatch_key("fastclr::ntxent_cpu", "CPU")
    return built and torch.backends.cpu.get_cpu_capability().startswith("AVX")


AVAILABLE = _available()
_ntxent = torch.ops.fastclr.ntxent_cpu.default
_ntxent_rows = torch.ops.fastclr.ntxent_cpu_rows.default
_ntxent_rows_bwd = torch.ops.fastclr.ntxent_cpu_rows_bwd.default


def covered_temperature(z0: Tensor, temperature: float | Tensor) -> float | None:
    """The temperature as a number if the operator covers it and these rows, else None."""
    if not AVAILABLE or z0.dtype == torch.float64 or z0.device.type != "cpu" or torch.compiler.is_exporting():
        return None
    if isinstance(temperature, Tensor):
        # the value of a tensor that is traced is unknown; the blocks decide when they run
        if type(temperature) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
            return None
        temperature = temperature.item()
    return float(temperature) if LOWEST_TEMPERATURE <= abs(temperature) < math.inf else None


def ntxent_native(z0: Tensor, z1: Tensor, temperature: float | Tensor, tau: float, reduction: str) -> Tensor:
    """NT-Xent of checked arguments.

    Args:
        z0: ``[N, D]`` float32, float16 or bfloat16 on the CPU, any strides; half precision is computed in float32.
        z1: ``[N, D]``, the same.
        temperature: a number, or the float32 tensor that gets a gradient.
        tau: its value, from :func:`covered_temperature`.
        reduction: "mean", "sum" or "none".

    Returns:
        float32, 0-dim or ``[2N]``.
    """
    z0, z1 = z0.float(), z1.float()
    loss: Tensor
    if reduction == "none":
        loss = NativeRows.apply(z0, z1, temperature, tau)
        return loss
    gradient = torch.is_grad_enabled() and (
        z0.requires_grad or z1.requires_grad or (isinstance(temperature, Tensor) and temperature.requires_grad)
    )
    loss = NativeNTXent.apply(z0, z1, temperature, tau, reduction == "mean", gradient)
    return loss


class NativeNTXent(torch.autograd.Function):
    """``(z0, z1, temperature, tau, mean, gradient) -> loss``; its gradient exists when the forward returns."""

    @staticmethod
    def forward(
        ctx: Any, z0: Tensor, z1: Tensor, temperature: float | Tensor, tau: float, mean: bool, gradient: bool
    ) -> Tensor:
        """Loss ``[]``."""
        loss: Tensor
        loss, *gradients = _ntxent(z0, z1, tau, mean, gradient, 0)
        # the inputs are kept for what a second derivative would depend on: it is refused
        ctx.save_for_backward(*gradients, z0, z1, temperature if isinstance(temperature, Tensor) else None)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to both views and the temperature."""
        dz0, dz1, dtemperature, *inputs = ctx.saved_tensors
        first, second, third = ctx.needs_input_grad[:3]

        def compute(grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
            return dz0 * grad if first else None, dz1 * grad if second else None, dtemperature * grad if third else None

        return (*once_differentiable(compute, grad, *inputs), None, None, None)


class NativeRows(torch.autograd.Function):
    """``(z0, z1, temperature, tau) -> loss [2N]``, whose gradient needs a weight for every row."""

    @staticmethod
    def forward(ctx: Any, z0: Tensor, z1: Tensor, temperature: float | Tensor, tau: float) -> Tensor:
        """Loss ``[2N]``."""
        loss: Tensor
        loss, terms = _ntxent_rows(z0, z1, tau, 0)
        ctx.save_for_backward(terms, z0, z1, temperature if isinstance(temperature, Tensor) else None)
        ctx.tau = tau
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to both views and the temperature."""
        terms, *inputs = ctx.saved_tensors

        def compute(weight: Tensor, z0: Tensor, z1: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
            found = _ntxent_rows_bwd(z0, z1, terms, weight, ctx.tau, 0)
            return tuple(g if needed else None for g, needed in zip(found, ctx.needs_input_grad[:3], strict=True))

        return (*once_differentiable(compute, grad, *inputs), None)
