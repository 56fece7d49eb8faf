"""Views per second on a CUDA device, and the share of its memory bandwidth that reading and writing once would take.

The bandwidth is measured on the same device by a copy. Bytes counted: the crops (read) and the views (written).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastclr.augment import AugmentConfig, SimCLRAugment

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
REPEATS = 20


def seconds(run: Callable[[], Any], inner: int) -> float:
    """Median time of one call, from CUDA events around `inner` calls."""
    for _ in range(3):
        run()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(inner):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / inner)
    return statistics.median(times)


def bandwidth() -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 5)


@pytest.mark.parametrize("batch", [256, 2048])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["cifar-32", "stl-96", "imagenet-224"])
def bench_augment_gpu(name: str, dtype: torch.dtype, batch: int) -> None:
    config, shape = {
        "cifar-32": (AugmentConfig.cifar(32), (32, 32)),
        "stl-96": (AugmentConfig.imagenet(96), (96, 96)),
        "imagenet-224": (AugmentConfig.imagenet(224), (375, 500)),
    }[name]
    images = torch.randint(0, 256, (batch, *shape, 3), dtype=torch.uint8, device="cuda")
    ids, epochs = torch.arange(batch, device="cuda"), itertools.count()
    augment = SimCLRAugment(config, views=2, dtype=dtype, impl="native")
    few, truth = (SimCLRAugment(config, dtype=dtype, impl=impl) for impl in ("native", "reference"))
    difference = (few(images[:2], ids[:2], 0) - truth(images[:2], ids[:2], 0)).abs().max()
    assert float(difference) < (5e-5 if dtype == torch.float32 else 1 / 128)

    taken = seconds(lambda: augment(images, ids, next(epochs)), 5)
    views = augment(images, ids, 0)
    crops = 3 * float(augment.params(ids, 0, shape).crop[..., 2:].prod(-1).sum())
    ideal = (crops + views.numel() * views.element_size()) / bandwidth()
    rate, share = views.shape[0] * batch / taken, ideal / taken
    device = torch.cuda.get_device_name()
    print(f"\n{device}, {name}, {dtype}, batch {batch}: {rate:,.0f} views/s, {share:.0%} of the bandwidth")
