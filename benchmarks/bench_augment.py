"""Two views of a batch on the CPU: fastclr beside others, the same recipe and images.

FASTCLR_TEST_DATA names a folder with imagenet-sample-400.tar, from which the photos come; without it they are noise of
the same sizes. FASTCLR_THREADS sets the threads (default: all cores). A gate comes first: the views of fastclr agree
with torchvision's float functions, those of the others have the right shape and range. What is missing is skipped.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_peers import PEERS, Case
from torch import Tensor

from fastclr.augment import AugmentConfig, SimCLRAugment

PHOTOS = "imagenet-sample-400.tar"
COUNT = {"cifar-32": 512, "photos-224": 64}
SLOW_COUNT = {"cifar-32": 64, "photos-224": 24}  # for what works image by image


def photos(count: int) -> list[Tensor]:
    """Photos of 400 to 500 pixels, decoded; or noise."""
    path = Path(os.environ.get("FASTCLR_TEST_DATA", "")) / PHOTOS
    if not path.is_file():
        generator = torch.Generator().manual_seed(0)
        sides = torch.randint(375, 501, (count, 2), generator=generator).tolist()
        return [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in sides]
    from PIL import Image

    found: list[Tensor] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if len(found) < count and member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                image = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")  # type: ignore[union-attr]
                found.append(torch.from_numpy(np.array(image)))
    return found


@functools.cache
def make_case(name: str, count: int) -> Case:
    """The two recipes of SimCLR: CIFAR at 32 pixels without blur, ImageNet at 224 pixels with blur."""
    if name == "photos-224":
        return Case(name, AugmentConfig.imagenet(224), photos(count))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Case(name, AugmentConfig.cifar(32), list(images))


def gate(provider: str, case: Case, views: Tensor) -> None:
    """Raise if the views are not what they should be."""
    size = case.config.size
    assert views.flatten(0, -4).shape == (2 * len(case.images), 3, size, size), views.shape
    assert views.dtype == torch.float32
    assert float(views.min()) > -0.01
    assert float(views.max()) < 1.01
    if provider == "fastclr":
        image, ids = case.images[0][None], torch.tensor([5])
        ours, truth = (SimCLRAugment(case.config, impl=impl)(image, ids, 1) for impl in ("native", "reference"))
        assert float((ours - truth).abs().max()) < 5e-5


@pytest.mark.parametrize("provider", PEERS)
@pytest.mark.parametrize("name", COUNT)
def bench_augment(benchmark: Any, provider: str, name: str) -> None:
    torch.set_num_threads(int(os.environ.get("FASTCLR_THREADS", os.cpu_count() or 1)))
    slow = provider.startswith(("torchvision", "albumentations"))
    case = make_case(name, (SLOW_COUNT if slow else COUNT)[name])
    try:
        run = PEERS[provider](case)
    except ModuleNotFoundError as error:
        pytest.skip(f"{provider} is not installed: {error}")
    gate(provider, case, run())
    benchmark.group = name
    benchmark.pedantic(run, rounds=5 if slow else 15, warmup_rounds=1)
    views = 2 * len(case.images)
    benchmark.extra_info |= {
        "provider": provider,
        "views": views,
        "photos": name != "photos-224" or (Path(os.environ.get("FASTCLR_TEST_DATA", "")) / PHOTOS).is_file(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if benchmark.stats is not None:  # timing can be disabled
        benchmark.extra_info["views_per_second"] = round(views / benchmark.stats.stats.median)
