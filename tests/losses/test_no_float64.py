"""Losses on devices that have no float64: emulated on the CPU by a mode that refuses every float64 tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastclr
from fastclr import device

LOSSES: dict[str, Any] = {
    "nt_xent": fastclr.NTXentLoss(0.3),
    "nt_xent, learnable": fastclr.NTXentLoss(0.3, learnable_temperature=True),
    "clip": fastclr.CLIPLoss(0.3),
    "info_nce": fastclr.InfoNCELoss(0.3),
    "dcl": fastclr.DCLLoss(0.3),
    "debiased": fastclr.DebiasedNTXentLoss(0.3),
    "siglip": fastclr.SigLIPLoss(),
    "barlow": fastclr.BarlowTwinsLoss(),
    "vicreg": fastclr.VICRegLoss(),
}


class NoFloat64(TorchDispatchMode):
    """Refuses what mps refuses: tensors of float64 with any dimension."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.dtype == torch.float64 and value.dim():
                raise TypeError(f"this device has no float64, which {func} returns")
        return result


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_without_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of float64 as far as float32 goes."""
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(24, 8, generator=generator) for _ in range(2)]
    loss: nn.Module = LOSSES[name]
    exact = [view.double().requires_grad_() for view in views]
    expected = loss.double()(*exact)
    expected.backward()
    loss.float()
    monkeypatch.setattr(device, "has_float64", lambda kind: False)
    rows = [view.clone().requires_grad_() for view in views]
    with NoFloat64():
        value = loss(*rows)
        value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(rows, exact, strict=True):
        assert (ours.grad.double() - theirs.grad).norm() < 1e-4 * theirs.grad.norm()  # type: ignore[union-attr]


def test_which_devices_have_it() -> None:
    assert device.has_float64("cpu") and device.has_float64("cuda") and device.has_float64("meta")
    assert not device.has_float64("mps") and device.vector_dtype(torch.device("mps")) == torch.float32
    assert device.exact_device(torch.device("mps")) == torch.device("cpu")
