"""Cached gradients and the profile on a CUDA device: the generator is replayed, stages are timed by events."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from fastclr import NTXentLoss, cached_step
from fastclr.training.config import PretrainConfig
from fastclr.training.profile import STAGES, profile_training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_and_autocast(autocast: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # a different memory format can give only one of the two computations TF32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(1152, 64)]
    model = nn.Sequential(*layers).cuda()
    call = torch.compile(model) if compiled else model
    views = torch.randn(2, 96, 3, 8, 8, device="cuda")
    loss = NTXentLoss(0.2)
    found = []
    for direct in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            if direct:
                parts = [call(views[:, at : at + 40].flatten(0, 1)) for at in range(0, 96, 40)]
                by_view = zip(*(part.chunk(2) for part in parts), strict=True)
                value = loss(*(torch.cat(view) for view in by_view))
            else:
                cached_step(call, views, loss, 40)
        if direct:
            value.backward()
        found.append(gradient(model))
    assert (found[0] - found[1]).norm() < (0.02 if autocast else 1e-4) * found[1].norm()


def test_memory_does_not_grow_with_the_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(57_600, 16)).cuda()
    peaks = []
    for count in (512, 2048):
        views = torch.randn(2, count, 3, 32, 32, device="cuda")
        cached_step(model, views, NTXentLoss(0.2), 64)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        cached_step(model, views, NTXentLoss(0.2), 64)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.1 * peaks[0]


def test_profile_counts_waits_and_times_by_events(tiny: PretrainConfig) -> None:
    p = profile_training(dataclasses.replace(tiny, device="cuda", deterministic=False), steps=5)
    assert tuple(p.stages) == STAGES and all(stage.median >= 0 for stage in p.stages.values())
    assert p.step.median > 0 and p.host_ms is not None and p.host_ms > 0
    assert p.host_syncs is not None and p.device_memory is not None and 0 < p.peak_memory < p.device_memory
