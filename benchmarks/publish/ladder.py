"""From a plain PyTorch loop to fastclr, one change at a time: images per second of real epochs on one device.

The first rung is the usual loop: a DataLoader whose processes run torchvision's transforms image by image, and a dense
loss in float32. Every rung trains the model of the preset `cifar10`; each sample is one epoch after a warm-up.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastclr.augment import SimCLRAugment
from fastclr.bench import machine
from fastclr.bench.augment_peers import torchvision_steps
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import OURS, Row, Spread
from fastclr.bench.step import LADDER, RUNG_NOTES, Rung, StepCase, Trainer
from fastclr.bench.suite import Planned, failures, run_suites
from fastclr.bench.timing import Effort
from fastclr.data import ImageDataset, Order, ResidentLoader, load_splits
from fastclr.device import resolve_device
from fastclr.environment import package_versions
from fastclr.training.config import PretrainConfig
from fastclr.training.presets import PRESETS

EPOCHS, WARM_STEPS = 3, 20


class TwoViews(torch.utils.data.Dataset[Tensor]):
    """Two views of every image, computed in the calling process."""

    def __init__(self, images: Tensor, config: PretrainConfig) -> None:
        from torchvision.transforms import v2

        augment = config.augment
        window = 2 * (augment.size // 10 // 2) + 1 if augment.blur_p > 0 else 1
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.transform = v2.Compose([*torchvision_steps(augment, window), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Return both views ``[2, 3, S, S]`` of an image."""
        return torch.stack([self.transform(self.images[index]) for _ in range(2)])


@dataclass(frozen=True)
class LadderCase:
    """One rung on a data set."""

    rung: Rung
    data: ImageDataset
    config: PretrainConfig
    device: str
    workers: int

    @property
    def name(self) -> str:
        """The case's name."""
        return self.rung.name

    def toy(self) -> LadderCase:
        """The same case: rehearsals use a small data set."""
        return self

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Train for some epochs and return images per second."""
        config, device = self.config, torch.device(self.device)
        backend = "aot_eager" if effort.toy else "inductor"
        case = StepCase(config.encoder, config.width, config.augment.size, config.batch_size, self.device, backend)
        trainer = Trainer.build(case, self.rung, config)
        batches = self.ours(device) if self.rung.augment else self.usual(device)
        steps = len(self.data) // config.batch_size
        warm, epochs = (1, 1) if effort.toy else (WARM_STEPS, EPOCHS)
        begin = time.perf_counter()
        take(trainer, batches, warm)
        first = time.perf_counter() - begin
        samples = []
        for _ in range(epochs):
            begin = time.perf_counter()
            loss = take(trainer, batches, steps)
            samples.append(time.perf_counter() - begin)
        note = f"{RUNG_NOTES[self.rung.name]}; warm-up of {warm} steps took {first:.1f} s"
        row = Row(suite="ladder", case=self.name, provider=self.rung.name, status="ok", unit="images", note=note)
        row.parameters = {"encoder": config.encoder, "width": config.width, "batch": config.batch_size}
        row.parameters |= {"images": len(self.data), "workers": self.workers, "device": self.device, "loss": loss}
        row.versions, row.work = package_versions(("torchvision", "timm")), steps * config.batch_size
        row.time, row.n, row.inner = Spread.of(samples), len(samples), 1
        if math.isnan(loss):
            row.status, row.note = "wrong", "the loss became NaN"
        return [row]

    def usual(self, device: torch.device) -> Iterator[Tensor]:
        """Yield views from a DataLoader, epoch after epoch."""
        options: dict[str, Any] = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        loader = torch.utils.data.DataLoader(
            TwoViews(self.data.images, self.config),
            self.config.batch_size,
            shuffle=True,
            drop_last=True,
            pin_memory=device.type == "cuda",
            **options,
        )
        while True:
            for views in loader:
                yield views.to(device, non_blocking=True).transpose(0, 1)

    def ours(self, device: torch.device) -> Iterator[Tensor]:
        """Yield views of the resident data set, epoch after epoch."""
        where = device if SimCLRAugment.supports(device) else torch.device("cpu")
        loader = ResidentLoader(self.data, Order(self.config.batch_size), device=where)
        augment, epoch = SimCLRAugment(self.config.augment, views=2, channels_last=self.rung.bf16), 0
        while True:
            for batch in loader.epoch(epoch):
                yield augment(batch.images, batch.ids, epoch).to(device)
            epoch += 1


def take(trainer: Trainer, batches: Iterator[Tensor], steps: int) -> float:
    """Make `steps` updates, wait for the device, return the last loss."""
    loss = torch.zeros(())
    for _ in range(steps):
        loss = trainer.update(trainer.backward(trainer.loss(trainer.embed(next(batches)))))
    return float(loss)


def main(arguments: list[str]) -> int:
    """Measure the rungs within a time limit; the next call resumes where this one stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="images of one size: CIFAR-10 as a folder or archive")
    parser.add_argument("--out", type=Path, default=Path("build/ladder"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rehearse", action="store_true", help="a thin encoder on the built-in shapes, few steps")
    options = parser.parse_args(arguments)
    device = resolve_device("auto")
    try:
        if not options.data and not options.rehearse:
            raise ValueError("CIFAR-10 is needed: pass --data PATH")
        config = PRESETS["cifar10"]
        data = load_splits(options.data or "shapes", holdout=0.0, loader="resident").train
        if not isinstance(data, ImageDataset) or not isinstance(data.images, Tensor):
            raise ValueError(f"{options.data} has images of several sizes: the ladder needs one size, as in CIFAR-10")
        workers = len(os.sched_getaffinity(0))
        if options.rehearse:
            config, workers = replace(config, width=0.125, stem="imagenet", batch_size=32), 0
            data = data.select(torch.arange(96))
        ends_first = [LADDER[-1], *LADDER[:-1]]  # both ends first, then the rungs between them
        planned = [Planned("ladder", LadderCase(rung, data, config, device.type, workers)) for rung in ends_first]
        path = options.out / f"ladder-{machine.slug(machine.describe(device))}.json"
        rows = run_suites(planned, device, path, Effort(toy=options.rehearse), seconds=60 * options.minutes)
    except (ValueError, OSError) as error:
        print(f"ladder: error: {error}", file=sys.stderr)
        return 2
    rates = {row.provider: row.rate for row in rows if row.rate}
    for rung in LADDER:
        if rung.name in rates and (rates.get("pytorch") or 0) > 0:
            print(f"{rung.name:<24}{rates[rung.name]:>12,.0f} images/s  {rates[rung.name] / rates['pytorch']:.2f}x")
    print(path)
    return int(bool(failures([row for row in rows if row.provider == OURS])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
