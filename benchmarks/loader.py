"""Loading: one pass over a folder of JPEG files, to two 224 px views or to decoded pixels."""

from __future__ import annotations

import functools
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.bench.augment_cases import jpegs, photo_file
from fastclr.bench.augment_peers import IN_FLIGHT, dali_runs, dali_start, dali_tensors, dali_view, torchvision_steps
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import Attempt, Contestant, Row, WrongResultError
from fastclr.bench.timing import Effort, contest
from fastclr.data import Order, ResidentLoader, load_splits, make_loader

SIZE, WINDOW = 224, 23


@dataclass(frozen=True)
class LoaderCase:
    """JPEG files in a folder.

    Args:
        kind: `views` for two views of each file, `decode` for pixels only.
        count: number of files.
        batch: images per step.
        device: where the views end up.
    """

    kind: Literal["views", "decode"]
    count: int
    batch: int = 64
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name."""
        return f"{self.kind}-{self.count}"

    def toy(self) -> LoaderCase:
        """The same case with few files."""
        return replace(self, count=6, batch=3)

    @property
    def workers(self) -> int:
        """Threads or processes that decode: one per core; none but this process in rehearsals."""
        return len(os.sched_getaffinity(0)) if self.count > 6 else 0

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""

        def base() -> Row:
            parameters = {"count": self.count, "batch": self.batch, "workers": self.workers, "device": self.device}
            parameters["photos"] = photo_file() is not None
            return Row(suite="loader", case=self.name, provider="", status="ok", unit="images", parameters=parameters)

        known = contestants(self) if self.kind == "views" else decoders(self)
        chosen = [c for c in known if not only or c.name in only]
        return contest(chosen, base, torch.device(self.device), effort, memory=False)


def cases(device: torch.device) -> list[LoaderCase]:
    """All cases of a device, the most important first."""
    count = 400 if device.type == "cpu" else 4000
    on = "cpu" if device.type == "cpu" else "cuda"
    return [LoaderCase("views", count, device=on), LoaderCase("decode", min(count, 400), device=on)]


def contestants(case: LoaderCase) -> list[Contestant]:
    """Return all contestants that make two views, those of fastclr first."""
    return [
        Contestant("fastclr-dali", lambda: streaming(case, "dali"), ("nvidia-dali-cuda130",), "DALI decodes only"),
        Contestant("fastclr-torch", lambda: streaming(case, "torch"), note="DataLoader processes decode"),
        Contestant("fastclr-resident-first", lambda: resident(case, True), note="decodes everything, then one epoch"),
        Contestant("fastclr-resident-later", lambda: resident(case, False), note="any epoch after the first"),
        Contestant("dali", lambda: all_dali(case), ("nvidia-dali-cuda130",), "SimCLR's recipe in DALI's operators"),
        Contestant("torchvision", lambda: usual(case), ("torchvision",), "DataLoader, Pillow, transforms per image"),
    ]


@functools.cache
def jpeg_folder(count: int) -> Path:
    """Write `count` JPEG files (photos if FASTCLR_TEST_DATA has them) into a temporary folder, and return it."""
    kept = tempfile.TemporaryDirectory(prefix="fastclr-bench-")
    _FOLDERS.append(kept)  # keeps the folder until the process ends
    archive = photo_file()
    source = jpegs(archive, count) if archive else drawn_jpegs(min(count, 64))
    for index in range(count):
        folder = Path(kept.name, f"class{index % 2}")
        folder.mkdir(exist_ok=True)
        (folder / f"{index:05d}.jpg").write_bytes(source[index % len(source)])
    return Path(kept.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def drawn_jpegs(count: int) -> list[bytes]:
    """Return JPEG files of 500 x 375 pixels with smooth random colours, of about the size of photos."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        coarse = torch.rand(1, 3, 47, 63, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 1)[0]
        noisy = (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
        pixels = (255 * noisy).byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def attempt_epoch(case: LoaderCase, epoch: Callable[[], Iterator[Tensor]]) -> Attempt:
    """Build the attempt that makes one pass over all images; `epoch` yields views ``[2, n, 3, 224, 224]``."""

    def consume(_: Any) -> int:
        return sum(views.shape[1] for views in epoch())

    def check() -> None:
        seen = 0
        for views in epoch():
            seen += views.shape[1]
            if views.shape != (2, views.shape[1], 3, SIZE, SIZE) or views.dtype != torch.float32:
                raise WrongResultError(float("inf"), 0, f"views are {list(views.shape)} {views.dtype}")
            if not (float(views.min()) > -0.01 and float(views.max()) < 1.01):
                raise WrongResultError(float("inf"), 0, "views leave [0, 1]")
        if seen != case.count:
            raise WrongResultError(abs(seen - case.count) / case.count, 0, f"{seen} of {case.count} images")

    return Attempt({"epoch": consume}, check, case.count)


def augmented(case: LoaderCase, batches: Iterator[Any], epoch: int) -> Iterator[Tensor]:
    """Yield the views of all batches."""
    device = torch.device(case.device)
    where = device if SimCLRAugment.supports(device) else torch.device("cpu")
    augment = SimCLRAugment(AugmentConfig.imagenet(SIZE), views=2)
    for batch in batches:
        moved = batch.to(where)
        yield augment(moved.images, moved.ids, epoch).to(device)


def resident(case: LoaderCase, first: bool) -> Attempt:
    """ResidentLoader, with or without the decoding before the first epoch."""
    folder, epochs = jpeg_folder(case.count), itertools.count()

    def loader() -> ResidentLoader:
        data: Any = load_splits(folder, holdout=0.0, loader="resident", cache=None).train  # every first epoch decodes
        return ResidentLoader(data, Order(case.batch, drop_last=False), device=case.device)

    kept = None if first else loader()

    def epoch() -> Iterator[Tensor]:
        number = next(epochs)
        return augmented(case, (kept or loader()).epoch(number), number)

    return attempt_epoch(case, epoch)


def streaming(case: LoaderCase, kind: Literal["dali", "torch"]) -> Attempt:
    """fastclr's loaders that decode as they go."""
    folder, epochs = jpeg_folder(case.count), itertools.count()
    images = load_splits(folder, holdout=0.0, loader=kind, device=case.device).train
    workers = max(1, case.workers) if kind == "dali" else case.workers  # DALI has threads only
    loader = make_loader(images, kind, Order(case.batch, drop_last=False), device=case.device, workers=workers)

    def epoch() -> Iterator[Tensor]:
        number = next(epochs)
        return augmented(case, loader.epoch(number), number)

    return attempt_epoch(case, epoch)


def all_dali(case: LoaderCase) -> Attempt:
    """One DALI pipeline that reads, decodes and augments."""
    dali: Any = import_module("nvidia.dali")
    fn: Any = import_module("nvidia.dali.fn")
    on_gpu = case.device != "cpu"
    options = {"num_threads": max(1, case.workers), "device_id": 0 if on_gpu else None, "seed": 0}
    pipeline = dali.Pipeline(batch_size=case.batch, prefetch_queue_depth=IN_FLIGHT, **options)
    with pipeline:
        encoded, _ = fn.readers.file(file_root=str(jpeg_folder(case.count)), random_shuffle=True, name="files")
        decoded = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu")
        pipeline.set_outputs(*(dali_view(AugmentConfig.imagenet(SIZE), WINDOW, decoded) for _ in range(2)))
    dali_start(pipeline)

    def epoch() -> Iterator[Tensor]:
        left = case.count
        for outputs in dali_runs(pipeline, -(-case.count // case.batch)):
            yield torch.stack(dali_tensors(outputs))[:, :left]  # the reader wraps around
            left -= case.batch

    return attempt_epoch(case, epoch)


class TwoViews(torch.utils.data.Dataset[Tensor]):
    """The usual data set class: opens a file with Pillow and applies the transform twice."""

    def __init__(self, files: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Return both views ``[2, 3, S, S]`` of an image."""
        from PIL import Image

        with Image.open(self.files[index]) as opened:
            image = opened.convert("RGB")
        return torch.stack([self.transform(image), self.transform(image)])


def usual(case: LoaderCase) -> Attempt:
    """DataLoader with torchvision's transforms on Pillow images."""
    from torchvision.transforms import v2

    steps = torchvision_steps(AugmentConfig.imagenet(SIZE), WINDOW)
    transform = v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = TwoViews(sorted(jpeg_folder(case.count).rglob("*.jpg")), transform)
    options: dict[str, Any] = {"num_workers": case.workers, "persistent_workers": case.workers > 0}
    loader = torch.utils.data.DataLoader(dataset, case.batch, shuffle=True, pin_memory=case.device != "cpu", **options)

    def epoch() -> Iterator[Tensor]:
        return (batch.transpose(0, 1).to(case.device, non_blocking=True) for batch in loader)

    return attempt_epoch(case, epoch)


def decoders(case: LoaderCase) -> list[Contestant]:
    """Return the decoders; all decode every file in this process, in one thread except for DALI."""

    def attempt(decode_all: Callable[[], int]) -> Attempt:
        def check() -> None:
            if (seen := decode_all()) != case.count:
                raise WrongResultError(abs(seen - case.count) / case.count, 0, f"{seen} of {case.count} images")

        return Attempt({"decode": lambda _: decode_all()}, check, case.count)

    def files() -> list[Path]:
        return sorted(jpeg_folder(case.count).rglob("*.jpg"))

    def pillow() -> Attempt:
        from fastclr.sources.decode import decode_image

        paths = files()
        return attempt(lambda: sum(decode_image(path) is not None for path in paths))

    def torchvision() -> Attempt:
        from torchvision.io import ImageReadMode, decode_image, read_file

        paths = [str(path) for path in files()]
        return attempt(lambda: sum(decode_image(read_file(p), ImageReadMode.RGB).shape[0] == 3 for p in paths))

    def dali() -> Attempt:
        nvidia: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        on_gpu = case.device != "cpu"
        options = {"num_threads": max(1, case.workers), "device_id": 0 if on_gpu else None}
        pipeline = nvidia.Pipeline(batch_size=case.batch, prefetch_queue_depth=IN_FLIGHT, **options)
        with pipeline:
            encoded, _ = fn.readers.file(file_root=str(jpeg_folder(case.count)))
            pipeline.set_outputs(fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu"))
        dali_start(pipeline)
        steps = -(-case.count // case.batch)
        return attempt(lambda: min(case.count, sum(len(outputs[0]) for outputs in dali_runs(pipeline, steps))))

    return [
        Contestant("fastclr", pillow, ("pillow",), "its decoder (Pillow), one thread"),
        Contestant("torchvision.io", torchvision, ("torchvision",), "one thread"),
        Contestant("dali", dali, ("nvidia-dali-cuda130",), f"{max(1, case.workers)} threads"),
    ]
