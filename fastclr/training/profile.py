"""Profiling a training step: the time of each stage, next to that of the loop's own unmodified step."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastclr import __version__
from fastclr.augment import SimCLRAugment
from fastclr.augment.images import RaggedImages
from fastclr.data import Batch, ImageDataset, ImageIndex, Splits
from fastclr.device import peak_memory, uses_bf16
from fastclr.methods import METHODS, Method
from fastclr.parallel import check_single_process
from fastclr.training.build import Training, augment_device, build
from fastclr.training.config import PretrainConfig
from fastclr.training.step import train_step

STAGES = (
    "loading",
    "augmentation",
    "copy to device",
    "encoder forward",
    "head forward",
    "loss forward",
    "loss backward",
    "head backward",
    "encoder backward",
    "optimiser",
)
WARMUP_STEPS = 3
SMALL_IMAGES_UP_TO = 64  # pixels: views up to this size imply a dataset of small images, larger ones imply photos
PHOTO_SHAPES = ((3, 4), (4, 3), (2, 3), (3, 2), (1, 1), (9, 16))  # height to width
PHOTOS = 96  # distinct photos; further images reuse their pixels


@dataclass(frozen=True)
class Spread:
    """Median, 20th and 80th percentile over the steps, in milliseconds."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Summarise one value per step, with linearly interpolated percentiles."""
        p20, median, p80 = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double())
        return Spread(median.item(), p20.item(), p80.item())


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The measurements and what the advice depends on; times in milliseconds, memory in bytes."""

    encoder: str
    parameters: int
    device: str
    device_name: str
    autocast: bool
    data: str
    """Where the images came from, and what was therefore not measured."""
    batch_size: int
    steps: int
    stages: dict[str, Spread]
    stage_sum: Spread
    step: Spread
    """A step of the loop: fetching the next batch and `train_step`."""
    overhead: Spread
    """`step` minus `stage_sum`, over neighbouring steps."""
    encoder_share: float
    """The encoder's forward and backward as a fraction of the sum of the stages."""
    images_per_s: float
    peak_memory: int
    """Peak bytes allocated on a CUDA device; on a CPU, the process's peak resident memory."""
    device_memory: int | None
    """Total memory of the CUDA device."""
    host_ms: float | None
    """Time the host takes to submit a step to an idle CUDA device."""
    host_syncs: int | None
    """How often the host waits for the CUDA device during one step."""
    loader: str
    augment_device: str
    native_augmentation: bool
    bf16_available: bool
    cuda_available: bool
    channels_last: bool
    convolutional: bool
    threads: int
    torch: str
    fastclr: str

    def share(self, stage: str) -> float:
        """Return a stage's fraction of the sum of all stages."""
        return self.stages[stage].median / self.stage_sum.median


class StageClock:
    """Times the stages of one step: with CUDA events, which do not block the stream, or with the host's clock."""

    def __init__(self, device: torch.device) -> None:
        """Start the first stage."""
        self._on_cuda = device.type == "cuda"
        self._names: list[str] = []
        self._times = [self._now()]

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mark(self, stage: str) -> None:
        """End a stage and start the next one."""
        self._names.append(stage)
        self._times.append(self._now())

    def read(self) -> dict[str, float]:
        """Return milliseconds by stage; on CUDA, synchronise the device first."""
        elapsed: dict[str, float] = {}
        for name, start, end in zip(self._names, self._times[:-1], self._times[1:], strict=True):
            took = start.elapsed_time(end) if self._on_cuda else 1000.0 * (end - start)
            elapsed[name] = elapsed.get(name, 0.0) + took
        return elapsed


class MarkedModule(nn.Module):
    """Calls a module, and marks the end of its forward and the end of the backward of everything after it.

    Args:
        module: returns a tensor, or tensors in tuples.
        forward_stage: the stage that ends with the module's forward; None if none does.
        backward_stage: the stage that ends once the gradient of the module's output is available.
        mark: called with the name of a stage.
    """

    def __init__(
        self, module: nn.Module, forward_stage: str | None, backward_stage: str, mark: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.module, self.mark = module, mark
        self.forward_stage, self.backward_stage = forward_stage, backward_stage

    def forward(self, *inputs: Any) -> Any:
        """Return what the module returns."""
        outputs = self.module(*inputs)
        last = outputs[-1] if isinstance(outputs, tuple) else outputs
        for tensor in last if isinstance(last, tuple) else (last,):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self.mark(self.backward_stage))
        if self.forward_stage is not None:
            self.mark(self.forward_stage)
        return outputs


def whole_and_staged_step(
    training: Training,
) -> tuple[Callable[[Batch], None], Callable[[Batch, StageClock], None]]:
    """Return the loop's step, and the same step with a clock marked between its stages.

    If the method is compiled, the staged step compiles each of its networks separately.
    """
    method, mode = training.method, training.config.compile
    networks = {name: module for name, module in method.named_children() if module is not method.criterion}
    timed: dict[str, Any] = dict(networks)
    if mode != "off":
        timed = {name: torch.compile(module, mode=mode) for name, module in networks.items()}

    def whole(batch: Batch) -> None:
        train_step(training, batch)

    def staged(batch: Batch, clock: StageClock) -> None:
        called = training.forward
        encoder = MarkedModule(timed["encoder"], "encoder forward", "head backward", clock.mark)
        try:
            for name, module in {**timed, "encoder": encoder}.items():
                setattr(method, name, module)
            training.forward = MarkedModule(Uncompiled(method), None, "loss backward", clock.mark)
            train_step(training, batch, clock.mark)
        finally:
            training.forward = called
            for name, module in networks.items():
                setattr(method, name, module)

    return whole, staged


class Uncompiled(nn.Module):
    """Calls a method's forward directly, bypassing `nn.Module.compile`."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Tensor, *texts: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features and embeddings."""
        forward: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = self.method.forward
        return forward(views, *texts)


def profile_training(config: PretrainConfig, steps: int = 20) -> Profile:
    """Build a training run as `fastclr pretrain` does and measure its step, whole and by stage.

    The two kinds of step alternate, so that a temporarily busy machine slows down both. The trained model is
    discarded.

    Args:
        config: the run; without data it uses random images in memory.
        steps: measured steps of each kind, after three warm-up steps.

    Raises:
        ValueError: the configuration or `steps` is invalid, or this is one of several processes.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    check_single_process("fastclr profile")
    data = None if config.data else synthetic_data(config)
    training = build(config, data=data)
    with torch.cuda.device(training.device) if training.device.type == "cuda" else nullcontext():
        return measure(training, steps, describe_data(config, training.data.train))


def measure(training: Training, steps: int, data: str) -> Profile:
    """Measure steps of `training`, which advances its position."""
    from tqdm import trange

    device = training.device
    training.method.train()
    whole, staged = whole_and_staged_step(training)
    batches = endless_batches(training)

    def step_whole() -> StageClock:
        clock = StageClock(device)
        whole(next(batches))
        clock.mark("step")
        return clock

    def step_staged() -> StageClock:
        clock = StageClock(device)
        batch = next(batches)
        clock.mark("loading")
        staged(batch, clock)
        return clock

    for _ in range(WARMUP_STEPS):
        step_whole(), step_staged()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clocks = []
    for index in trange(steps, desc="profiling", leave=False, disable=not sys.stderr.isatty()):
        # alternate the order, so that neither kind always runs right after the other
        if index % 2:
            clocks.append((step_whole(), step_staged()))
        else:
            clocks.append((step_staged(), step_whole())[::-1])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    peak = peak_memory(device)
    wholes = [clock.read()["step"] for clock, _ in clocks]
    parts = [clock.read() for _, clock in clocks]
    sums = [sum(part.values()) for part in parts]
    by_stage = {name: Spread.of([part.get(name, 0.0) for part in parts]) for name in STAGES}
    stage_sum, step = Spread.of(sums), Spread.of(wholes)
    encoder = by_stage["encoder forward"].median + by_stage["encoder backward"].median
    batch_size = training.config.batch_size
    on_cuda = device.type == "cuda"
    return Profile(
        encoder=f"{training.config.encoder} x{training.config.width:g}",
        parameters=sum(p.numel() for p in training.method.encoder.parameters()),
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if on_cuda else "CPU",
        autocast=training.autocast,
        data=data,
        batch_size=batch_size,
        steps=steps,
        stages=by_stage,
        stage_sum=stage_sum,
        step=step,
        overhead=Spread.of([a - b for a, b in zip(wholes, sums, strict=True)]),
        encoder_share=encoder / stage_sum.median,
        images_per_s=1000.0 * batch_size / step.median,
        peak_memory=peak,
        device_memory=torch.cuda.get_device_properties(device).total_memory if on_cuda else None,
        host_ms=host_time(lambda: whole(next(batches))) if on_cuda else None,
        host_syncs=count_syncs(lambda: whole(next(batches))) if on_cuda else None,
        loader=type(training.loader).__name__.removesuffix("Loader").lower(),
        augment_device=str(augment_device(device)),
        native_augmentation=SimCLRAugment.supports(augment_device(device)),
        bf16_available=uses_bf16("auto", device),
        cuda_available=torch.cuda.is_available(),
        channels_last=training.config.channels_last,
        convolutional=sum(isinstance(m, nn.Conv2d) for m in training.method.modules()) > 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        fastclr=__version__,
    )


def endless_batches(training: Training) -> Iterator[Batch]:
    """Yield batches epoch after epoch, without end."""
    while True:
        yield from training.loader.epoch(training.epoch)
        training.epoch += 1


def host_time(step: Callable[[], None], repeats: int = 5) -> float:
    """Return the median milliseconds until `step` returns, when started on an idle CUDA device."""
    took = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        took.append(1000.0 * (time.perf_counter() - start))
    return Spread.of(took).median


def count_syncs(step: Callable[[], None]) -> int:
    """Return how often `step` makes the host wait for the CUDA device, as counted by torch's sync debug mode."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def synthetic_data(config: PretrainConfig) -> Splits:
    """Return random images for four steps: of the views' size if small, otherwise photos of common shapes.

    A method of images and texts gets a caption for each, of ten numbers in words.
    """
    generator = torch.Generator().manual_seed(config.seed)
    count, size, channels = 4 * config.batch_size, config.augment.size, config.augment.channels
    images: torch.Tensor | RaggedImages
    if size <= SMALL_IMAGES_UP_TO:
        images = torch.randint(256, (count, size, size, channels), dtype=torch.uint8, generator=generator)
    else:
        shorter = config.resize_shorter or 256
        shapes = [(shorter * h // min(h, w), shorter * w // min(h, w)) for h, w in PHOTO_SHAPES]
        sizes = torch.tensor(shapes * (PHOTOS // len(shapes)))
        lengths = channels * sizes.prod(dim=1)
        data = torch.randint(256, (int(lengths.sum()),), dtype=torch.uint8, generator=generator)
        images = RaggedImages(data, lengths.cumsum(0) - lengths, sizes, channels).select(
            torch.arange(count) % len(sizes)
        )
    ids = torch.arange(count)
    names = tuple(str(index) for index in range(count))
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    told = tuple((" ".join(digits[int(digit)] for digit in f"{number:010d}"),) for number in range(count))
    texts = told if METHODS[config.method].uses_texts else None
    made = ImageDataset(images, ids, torch.full_like(ids, -1), (), names, "random images", captions=texts)
    return Splits(made, None)


def describe_data(config: PretrainConfig, images: ImageDataset | ImageIndex) -> str:
    """Describe the images, and what their loading time does not cover."""
    if config.data or isinstance(images, ImageIndex):
        return f"{len(images)} images of {config.data}"
    if isinstance(images.images, torch.Tensor):
        size = f"{images.images.shape[1]}x{images.images.shape[2]}"
    else:
        size = f"about {int(images.images.sizes.min())} px"
    return f"{len(images)} random images of {size} in memory: reading files is not measured (give --data PATH)"
