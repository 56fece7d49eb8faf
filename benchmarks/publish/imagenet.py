"""A training step of the preset `imagenet` on photos: time by stage, and the largest batch that fits on one device.

The stages are those of `fastclr profile`, on decoded photos that are already on the device, repeated to fill batches.
The largest batch is found by doubling, with full steps from given views (forward, loss, backward, update), for the
dense loss and for fastclr's NT-Xent, each with and without cached gradients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastclr.bench import machine
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_peers import dense
from fastclr.bench.rows import OURS, Row, Spread
from fastclr.bench.suite import Planned, failures, run_suites
from fastclr.bench.timing import Effort, out_of_memory
from fastclr.data import ImageDataset, Splits, load_splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.environment import package_versions
from fastclr.losses import nt_xent
from fastclr.losses.cached_step import cached_step
from fastclr.methods import parameter_groups
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.optim import build_optimizer
from fastclr.training.presets import PRESETS

BATCH, MICRO = 256, 256
FIRST, MOST = 256, 65_536  # images per step at which the search starts and ends
STEPS = 20
Loss = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class StagesCase:
    """The training step by stage."""

    config: PretrainConfig
    data: Splits
    steps: int = STEPS

    @property
    def name(self) -> str:
        """The case's name."""
        config = self.config
        return f"{config.encoder}-x{config.width:g}-{config.augment.size}px-batch{config.batch_size}"

    def toy(self) -> StagesCase:
        """The same case with two steps."""
        return replace(self, steps=2)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Profile, and return one row with the profile's stages."""
        from fastclr.training.build import build
        from fastclr.training.profile import measure

        training = build(self.config, data=self.data)
        profile = measure(training, self.steps, "photos")
        row = Row(suite="photos", case=self.name, provider=OURS, status="ok", unit="images", work=profile.batch_size)
        row.parameters = {"autocast": profile.autocast, "host_syncs": profile.host_syncs, "host_ms": profile.host_ms}
        row.parameters |= {"encoder_share": profile.encoder_share, "compile": self.config.compile}
        row.note = f"the encoder has {profile.encoder_share:.1%} of the stages"
        row.versions, row.n, row.inner, row.peak_bytes = (
            package_versions(("timm",)),
            profile.steps,
            1,
            profile.peak_memory,
        )
        row.time = in_seconds(profile.step)
        row.stages = {name: in_seconds(stage) for name, stage in profile.stages.items()}
        return [row]


def in_seconds(milliseconds: Spread) -> Spread:
    """Convert a spread of the profile into one of the benchmarks."""
    return Spread(milliseconds.median / 1000, milliseconds.p20 / 1000, milliseconds.p80 / 1000)


@dataclass(frozen=True)
class LargestCase:
    """The largest batch of one kind of step.

    Args:
        kind: what is tried, for people.
        loss: of two projections.
        micro: images per micro-batch for cached gradients; None for a plain step.
        config: model, optimiser and views.
        device: where the steps run.
        first: images to start with; doubled as long as a step fits.
        most: images to stop at.
    """

    kind: str
    loss: Loss
    micro: int | None
    config: PretrainConfig
    device: str
    first: int = FIRST
    most: int = MOST

    @property
    def name(self) -> str:
        """The case's name."""
        return f"largest batch, {self.kind}"

    def toy(self) -> LargestCase:
        """The same case, up to few images."""
        return replace(self, first=4, most=8, micro=self.micro and 2)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Double the batch until memory runs out, and return the last one that fits."""
        device = torch.device(self.device)
        torch.manual_seed(0)
        model = build_model(self.config).to(device, memory_format=torch.channels_last)
        optimizer = build_optimizer(self.config, parameter_groups(model, self.config.optimizer))
        autocast = uses_bf16(self.config.amp, device)
        row = Row(suite="photos", case=self.name, provider=self.kind, status="ok", unit="images")
        row.versions = package_versions(("timm",))
        row.parameters = {"encoder": self.config.encoder, "micro_batch": self.micro, "autocast": autocast}
        batch, note = self.first, f"{self.most:,} is the most that is tried"
        while batch <= self.most:
            try:
                took, peak = self.step(model, optimizer, batch, autocast, device)
            except Exception as error:  # libraries raise other errors, too, for a size they cannot handle
                if row.time is None and not out_of_memory(error):
                    raise
                note = f"{batch:,} do not: {type(error).__name__}: {str(error).strip().splitlines()[0]}"[:300]
                break
            finally:
                optimizer.zero_grad(set_to_none=True)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            row.work, row.time, row.peak_bytes, row.n, row.inner = batch, Spread(took, took, took), peak, 1, 1
            batch *= 2
        row.note = f"{row.work:,} images fit, {note}"
        row.status = "ok" if row.time else "out of memory"
        return [row]

    def step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: int, autocast: bool, device: torch.device
    ) -> tuple[float, int | None]:
        """Make one update from random views; return its seconds and, on a GPU, the peak bytes."""
        on_gpu = device.type == "cuda"
        dtype, size = torch.bfloat16 if autocast else torch.float32, self.config.augment.size
        views = torch.empty(2 * batch, 3, size, size, dtype=dtype, device=device, memory_format=torch.channels_last)
        both = views.normal_().unflatten(0, (2, batch))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        temperature = self.config.options.temperature
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            if self.micro is None:
                z0, z1 = model(both.flatten(0, 1)).chunk(2)
                value = self.loss(z0, z1, temperature)
            else:
                value = cached_step(model, both, lambda z0, z1: self.loss(z0, z1, temperature), self.micro)
        if self.micro is None:
            value.backward()
        optimizer.step()
        float(value.detach())  # waits for the device
        took = time.perf_counter() - begin
        return took, torch.cuda.max_memory_allocated(device) if on_gpu else None


def photos(source: str, count: int) -> Splits:
    """Return decoded photos, repeated until there are `count`, each with its own index."""
    found = load_splits(source, holdout=0.0, loader="resident").train
    if not isinstance(found, ImageDataset):
        raise ValueError(f"{source} does not fit into memory: a few hundred photos are enough")
    ids = torch.arange(count)
    repeated = found.select(ids % len(found))
    names = tuple(f"{number}/{name}" for number, name in enumerate(repeated.names))
    return Splits(replace(repeated, ids=ids, names=names), None)


def cases(config: PretrainConfig, data: Splits, device: str) -> list[Planned]:
    """Return the planned measurements, the profile first."""
    kinds: list[tuple[str, Loss, int | None]] = [
        (OURS, nt_xent, None),
        ("dense loss", dense, None),
        (f"{OURS}, cached gradients", nt_xent, MICRO),
        ("dense loss, cached gradients", dense, MICRO),
    ]
    largest = [LargestCase(name, loss, micro, config, device) for name, loss, micro in kinds]
    return [Planned("photos", case) for case in (StagesCase(config, data), *largest)]


def main(arguments: list[str]) -> int:
    """Measure within a time limit; the next call resumes where this one stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a folder or archive of photos; a few hundred are enough")
    parser.add_argument("--out", type=Path, default=Path("build/imagenet"))
    parser.add_argument("--batch", type=int, default=BATCH, help="images per step when timing the stages")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rehearse", action="store_true", help="a thin encoder on small views, few steps")
    options = parser.parse_args(arguments)
    device = resolve_device("auto")
    try:
        if not options.data and not options.rehearse:
            raise ValueError("photos are needed: pass --data PATH")
        config = replace(PRESETS["imagenet"], batch_size=options.batch, loader="resident", device=device.type)
        if options.rehearse:
            augment = replace(config.augment, size=32)
            config = replace(config, encoder="resnet18", width=0.125, augment=augment, batch_size=4)
        data = photos(options.data or "shapes", 4 * config.batch_size)
        planned = cases(config, data, device.type)
        if options.rehearse:
            planned = [Planned(p.suite, p.case.toy()) for p in planned]
        path = options.out / f"imagenet-{machine.slug(machine.describe(device))}.json"
        rows = run_suites(planned, device, path, Effort(toy=options.rehearse), seconds=60 * options.minutes)
    except (ValueError, OSError) as error:
        print(f"imagenet: error: {error}", file=sys.stderr)
        return 2
    print(path)
    return int(bool(failures(rows)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
