"""NT-Xent forward and backward on the CPU: fastclr beside lightly and plain PyTorch, the same tensors, one process.

Each row passes a gate first: its gradient must agree with the float64 definition.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from lightly.loss import NTXentLoss as LightlyLoss
from memory import peak_bytes
from torch import Tensor

from fastclr import NTXentLoss, reference

TEMPERATURE = 0.1
DIM = 128
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fastclr": NTXentLoss(TEMPERATURE),
    "lightly": LightlyLoss(TEMPERATURE),
    "pytorch": lambda z0, z1: reference.nt_xent(z0, z1, TEMPERATURE),
}


def views(pairs: int, dtype: torch.dtype) -> list[Tensor]:
    """Two noisy copies of random embeddings, as leaves."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(pairs, DIM, generator=generator)
    return [(base + 0.5 * torch.randn(pairs, DIM, generator=generator)).to(dtype).requires_grad_() for _ in range(2)]


def gradient_error(loss: Callable[[Tensor, Tensor], Tensor], pairs: int) -> float:
    """Relative error of both gradients against the float64 definition."""
    ours = views(pairs, torch.float32)
    truth = [z.detach().double().requires_grad_() for z in ours]
    loss(*ours).backward()
    reference.nt_xent(*truth, TEMPERATURE).backward()
    found, expected = (torch.cat([z.grad.double() for z in pair if z.grad is not None]) for pair in (ours, truth))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("pairs", [64, 256, 1024, 4096])
def bench_loss(benchmark: Any, name: str, pairs: int) -> None:
    loss, inputs = LOSSES[name], views(pairs, torch.float32)
    error = gradient_error(loss, min(pairs, 1024))
    assert error < 1e-5, f"{name} computes another gradient: relative error {error:.1e}"

    def step() -> None:
        for z in inputs:
            z.grad = None
        loss(*inputs).backward()

    step()
    benchmark.group = f"loss-{pairs}"
    benchmark.extra_info |= {
        "provider": name,
        "pairs": pairs,
        "dim": DIM,
        "dtype": "float32",
        "gradient_error": error,
        "peak_bytes": peak_bytes(step),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightly": version("lightly"),
    }
    benchmark.pedantic(step, rounds=max(5, 2048 // pairs), iterations=max(1, 256 // pairs), warmup_rounds=1)
