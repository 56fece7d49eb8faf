"""Two random views of a batch: cases, images, gate, and the floor that copy bandwidth sets."""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import Contestant, Row, WrongResultError
from fastclr.bench.timing import Effort, contest

PHOTOS = "imagenet-sample-400.tar"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LIMITS = {"float32": 5e-5, "bfloat16": 1 / 128}  # absolute, of pixels in [0, 1]
CHECKED = 2  # images that the gate compares with the reference implementation


@dataclass(frozen=True)
class AugmentCase:
    """A batch of uint8 images and SimCLR's recipe for them.

    Args:
        size: side of the views; 32 selects the CIFAR recipe (no blur), more the ImageNet one.
        count: number of images; contestants that work image by image on a CPU get `slow_count` of them.
        dtype: dtype of the views.
        device: where the images are augmented.
    """

    size: int
    count: int
    slow_count: int
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name."""
        kind = {32: "cifar", 96: "stl"}.get(self.size, "photos")
        batch = f"-batch{self.count}" if self.device != "cpu" else ""
        return f"{kind}-{self.size}" + ("" if self.dtype == "float32" else f"-{self.dtype}") + batch

    def toy(self) -> AugmentCase:
        """The same case with few images."""
        return replace(self, count=4, slow_count=2)

    @property
    def config(self) -> AugmentConfig:
        """The recipe."""
        return AugmentConfig.cifar(32) if self.size == 32 else AugmentConfig.imagenet(self.size)

    @property
    def window(self) -> int:
        """Size of the blur kernel; 1 means no blur."""
        return 2 * (self.size // 10 // 2) + 1 if self.config.blur_p > 0 else 1

    def images(self, count: int) -> list[Tensor]:
        """The first `count` images, uint8 ``[H, W, 3]`` on the CPU: photos at size 224, else noise of one size."""
        if self.size > 96:
            return photos(count) if self.device == "cpu" else noise(count, 375, 500)
        return noise(count, self.size, self.size)

    def run(self, ceilings: Ceilings, effort: Effort, contestants: Sequence[Contestant]) -> list[Row]:
        """Time `contestants` in turn."""

        def base() -> Row:
            parameters = {"size": self.size, "count": self.count, "dtype": self.dtype, "device": self.device}
            parameters["photos"] = self.size > 96 and self.device == "cpu" and photo_file() is not None
            return Row(suite="augment", case=self.name, provider="", status="ok", unit="views", parameters=parameters)

        floor = None if effort.toy else self.floor_s(ceilings)
        rows = contest(contestants, base, torch.device(self.device), effort, memory=self.device != "cpu")
        for row in rows:
            # the other contestants read a different number of pixels, or fewer images
            row.floor_s = floor if row.provider == "fastclr" and row.time else None
        return rows

    def floor_s(self, ceilings: Ceilings) -> float:
        """Seconds that it takes to read the crops and write the views at copy bandwidth."""
        ids = torch.arange(self.count)
        sizes = torch.tensor([image.shape[:2] for image in self.images(self.count)])
        crops = 3.0 * float(SimCLRAugment(self.config, views=2).params(ids, 0, sizes).crop[..., 2:].prod(-1).sum())
        views = 2 * self.count * 3 * self.size**2 * DTYPES[self.dtype].itemsize
        return (crops + views) / ceilings.copy()


def cases(device: torch.device) -> list[AugmentCase]:
    """All cases of a device, the most important first."""
    if device.type == "cpu":
        return [AugmentCase(32, 512, 64), AugmentCase(224, 64, 24), AugmentCase(96, 256, 48)]
    sizes = [AugmentCase(224, 256, 256, "bfloat16", "cuda"), AugmentCase(32, 2048, 2048, "bfloat16", "cuda")]
    sizes += [AugmentCase(96, 1024, 1024, "bfloat16", "cuda"), AugmentCase(224, 1024, 1024, "bfloat16", "cuda")]
    return [*sizes, *(replace(case, dtype="float32") for case in sizes[:3])]


def check_views(case: AugmentCase, views: Tensor, count: int) -> None:
    """Raise unless these are two views of `count` images, of the right size and dtype, and within [0, 1]."""
    size = case.size
    if views.flatten(0, -4).shape != (2 * count, 3, size, size) or views.dtype != DTYPES[case.dtype]:
        raise WrongResultError(float("inf"), 0, f"views are {list(views.shape)} {views.dtype}")
    low, high = float(views.min()), float(views.max())
    if not (low > -0.01 and high < 1.01):
        raise WrongResultError(max(-low, high - 1), 0.01, f"views reach from {low:.3g} to {high:.3g}")


def check_pixels(case: AugmentCase) -> float:
    """Return the largest difference between the operator and the reference implementation in float32."""
    worst, dtype = 0.0, DTYPES[case.dtype]
    for index, image in enumerate(case.images(CHECKED)):
        source, ids = image[None].to(case.device), torch.tensor([index], device=case.device)
        ours = SimCLRAugment(case.config, impl="native", dtype=dtype)(source, ids, 1)
        truth = SimCLRAugment(case.config, impl="reference")(source.cpu(), ids.cpu(), 1)
        worst = max(worst, float((ours.float().cpu() - truth).abs().max()))
    if not worst < LIMITS[case.dtype]:
        raise WrongResultError(worst, LIMITS[case.dtype], "pixels")
    return worst


def photo_file() -> Path | None:
    """Return the archive of photos in the folder FASTCLR_TEST_DATA, if it exists."""
    path = Path(os.environ.get("FASTCLR_TEST_DATA", "")) / PHOTOS
    return path if path.is_file() else None


@functools.cache
def photos(count: int) -> list[Tensor]:
    """Return decoded photos of 400 to 500 pixels, or noise of such sizes if there are none."""
    archive = photo_file()
    if archive is None:
        generator = torch.Generator().manual_seed(0)
        sides = torch.randint(375, 501, (count, 2), generator=generator).tolist()
        return [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in sides]
    from PIL import Image

    return [torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))) for data in jpegs(archive, count)]


def jpegs(archive: Path, count: int) -> list[bytes]:
    """Return the contents of the first JPEG files in a tar."""
    found: list[bytes] = []
    with tarfile.open(archive) as opened:
        for member in opened:
            if len(found) < count and member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                file = opened.extractfile(member)
                found += [file.read()] if file is not None else []
    return found


@functools.cache
def noise(count: int, height: int, width: int) -> list[Tensor]:
    """Return random images of one size."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator))
