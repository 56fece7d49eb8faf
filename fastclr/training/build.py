"""The parts of a training run, and how they are built from a configuration."""

from __future__ import annotations

import dataclasses
import inspect
import time
import warnings
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastclr.augment import SimCLRAugment
from fastclr.augment.recipes import MultiCropAugment
from fastclr.data import Batch, Loader, Order, Splits, load_splits, make_loader
from fastclr.data.load import found_sources
from fastclr.data.order import raw_bits
from fastclr.device import resolve_device, set_deterministic, uses_bf16
from fastclr.evaluate import OnlineProbe
from fastclr.methods import METHODS, Facts, Method
from fastclr.methods.encoders import feature_dim
from fastclr.methods.heads import projected_width
from fastclr.methods.image_text import ImageText
from fastclr.methods.model import build_model
from fastclr.methods.own_encoder import is_given
from fastclr.methods.sync_bn import check_sync, has_own_statistics, synchronise_batch_norm
from fastclr.methods.tokenizers import Tokenizer
from fastclr.parallel import World
from fastclr.training.config import PretrainConfig
from fastclr.training.health import Health
from fastclr.training.optim import Schedule, build_optimizer, peak_lr
from fastclr.training.run import built
from fastclr.training.texts import agreed, tokenizer_for
from fastclr.training.totals import Totals


@dataclass
class Clock:
    """Training seconds of this process, with the first step kept apart because it compiles and autotunes.

    The seconds of its processors, of all of its threads, are counted from one record to the next.
    """

    device: torch.device
    training: float = 0.0
    first_step: float = 0.0
    since: float = field(default_factory=time.perf_counter)
    started: bool = False
    processor: float = 0.0
    processor_since: float = field(default_factory=time.process_time)

    @property
    def total(self) -> float:
        """Total seconds."""
        return self.training + self.first_step

    def start(self) -> None:
        """Start counting; time since the last lap is discarded."""
        self.since, self.processor_since = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """Synchronise the device and add the time since `start` or the last lap."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        elapsed, self.since = now - self.since, now
        used = time.process_time()
        self.processor, self.processor_since = self.processor + used - self.processor_since, used
        if self.started:
            self.training += elapsed
        else:
            self.first_step += elapsed
            self.started = True

    def take_processor(self) -> float:
        """Return the processor seconds up to the last lap, and count anew."""
        taken, self.processor = self.processor, 0.0
        return taken


@dataclass
class Training:
    """The parts of a training run and its position: `step_in_epoch` batches of `epoch` are done."""

    config: PretrainConfig
    world: World
    autocast: bool
    data: Splits
    loader: Loader
    augment: SimCLRAugment | MultiCropAugment
    method: Method
    forward: nn.Module  # the method as the loop calls it: compiled, wrapped in DistributedDataParallel
    probe: OnlineProbe | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    totals: Totals
    health: Health
    clock: Clock
    tokenizer: Tokenizer | None = None  # of the captions, where the method uses them
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0

    @property
    def device(self) -> torch.device:
        """The device the method runs on."""
        return self.world.device

    @property
    def total_steps(self) -> int:
        """Number of steps in the whole run, as planned at this one."""
        return self.config.planned_at(self.step) * len(self.loader)

    def loss_of(self, batch: Batch) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """Return the loss of the current step as a function of the embeddings."""

        def loss(*embeddings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            value, sums = self.method.loss(embeddings, batch, self.step, self.total_steps)
            return value, {**sums, **self.health.observe(embeddings[-1])}

        return loss

    def scalars(self) -> dict[str, float]:
        """Return what a log record has beside means over the steps."""
        return {**self.method.scalars(), **self.health.scalars()}


# makes the method of a run, such as one that starts from the weights of another run
MakeMethod = Callable[[PretrainConfig, Facts], Method]


def build(
    config: PretrainConfig,
    world: World | None = None,
    data: Splits | None = None,
    make: MakeMethod | None = None,
    *,
    fresh: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Training:
    """Load the data and build method, optimiser and schedule as `config` says.

    Args:
        config: the run.
        world: the processes that share it; None for this one alone.
        data: the images, in place of those that `config` names.
        make: makes the method, in place of the one that `config` names.
        fresh: whether the encoder takes its starting weights; without, those of a checkpoint are to follow.
        tokenizer: of a run that goes on; without, a method that uses texts gets the one that its options name.

    Raises:
        ValueError: the configuration or the data are unsuitable.
    """
    world = world or World(0, 1, resolve_device(config.device), None)
    device, share = world.device, world.share(config.batch_size)
    if config.deterministic:
        set_deterministic()
    if data is None:
        if not world.is_main and config.download:
            world.barrier()  # the first process downloads; the others then read its files
        data = load_data(config, share)
        if world.is_main and config.download:
            world.barrier()
    check_same_images(data, world)
    # `auto` depends on free memory, so record its choice: a resumed run must use the same loader
    config = dataclasses.replace(config, loader=data.loader)
    if config.range == "auto":  # what was found is the run's range from now on, for every image that it sees
        config = dataclasses.replace(config, range=data.range)
    if tokenizer is None and METHODS[config.method].uses_texts:
        tokenizer = tokenizer_for(config, data, world)
    loader = make_loader(
        data.train,
        data.loader,
        Order(share, config.seed, rank=world.rank, world_size=world.size),
        device=augment_device(device),
        workers=config.workers,
        prefetch=config.prefetch,
        tokenize=tokenizer,
    )
    torch.manual_seed(config.seed)
    labelled = int((data.train.labels >= 0).sum())
    facts = dataclasses.replace(
        likely_facts(config, world),
        images=len(data.train),
        labelled=labelled,
        classes=len(data.train.classes),
        ids=data.train.ids,
        vocabulary=None if tokenizer is None else tokenizer.vocabulary,
    )
    method = (make or METHODS[config.method].build)(dataclasses.replace(config, fresh=fresh), facts)
    if config.sync_bn:
        synchronise_batch_norm(method, world, config.sync_bn_group)
    method = method.to(device)
    if config.channels_last:
        method = method.to(memory_format=torch.channels_last)
    groups = method.groups(config.optimizer)
    optimizer = build_optimizer(config, groups)
    return Training(
        config=config,
        world=world,
        autocast=uses_bf16(config.amp, device),
        data=data,
        loader=loader,
        augment=method.views.augmenter(config.seed, channels_last=config.channels_last),
        method=method,
        forward=wrap(method, config, world),
        probe=build_probe(config, method, data, device),
        optimizer=optimizer,
        schedule=Schedule(config, optimizer, len(loader), groups),
        totals=Totals(device),
        health=Health(bool(method.cause)),
        clock=Clock(device),
        tokenizer=tokenizer,
    )


def likely_facts(config: PretrainConfig, world: World) -> Facts:
    """Return what is known of a run before its images are read: as many as a step takes, all of them with labels."""
    count = config.batch_size
    return Facts(
        images=count,
        labelled=count,
        classes=2,
        world_size=world.size,
        batch_size=count,
        optimizer=config.optimizer,
        lr=peak_lr(config),
    )


def check_model(config: PretrainConfig, world: World, make: MakeMethod | None = None) -> None:
    """Build the networks, so that what is wrong with them is said before images are read; draws no random number.

    Args:
        config: the run.
        world: the processes that share it.
        make: makes the method in place of the one that `config` names, from images that must be read: without it.

    Raises:
        ValueError: the batch cannot be shared, or the networks cannot be built or do not suit it.
    """
    world.share(config.batch_size)
    kind = METHODS[config.method]

    def trial(config: PretrainConfig) -> nn.Module:
        facts = likely_facts(config, world)
        if make is None and not issubclass(kind, ImageText):
            return kind.build(config, facts)
        model = build_model(config)
        if make is None and issubclass(kind, ImageText):  # its text tower waits for the captions
            kind.check(config, facts)
            projected_width(model.head, kind.title)
        return model

    with torch.random.fork_rng(devices=[]):
        kind.prepare(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method itself will warn
            method = built(trial, config, "the configuration")
    if config.sync_bn:
        check_sync(method, world, config.sync_bn_group)


def wrap(method: Method, config: PretrainConfig, world: World) -> nn.Module:
    """Return the method as the loop calls it: compiled, with its networks' gradients averaged over processes."""
    if config.compile != "off":
        method.compile(mode=config.compile)
    if world.group is None:
        return method
    # The criterion runs outside forward. If DistributedDataParallel handled its gradients, a direct step would reduce
    # them once, but a cached step would not reduce them with the networks' gradients, and the ranks would drift apart
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, method.names_apart())
    options: dict[str, Any] = {"gradient_as_bucket_view": True}
    if not has_own_statistics(config):  # equal statistics on all ranks need no broadcast
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # in torch 2.14
        options["forward_sync_buffers" if renamed else "broadcast_buffers"] = False
    return DistributedDataParallel(method, **options)


def build_probe(config: PretrainConfig, method: Method, data: Splits, device: torch.device) -> OnlineProbe | None:
    """Return a linear classifier trained alongside the encoder without affecting it, if `config` asks for one.

    Raises:
        ValueError: the training images have fewer than two classes.
    """
    if not config.online_probe:
        return None
    classes = len(data.train.classes)
    if classes < 2:
        raise ValueError(f"online_probe needs training images of at least 2 classes, got {classes}")
    return OnlineProbe(feature_dim(method.encoder, config.augment.size), classes).to(device)


def augment_device(device: torch.device) -> torch.device:
    """Return where to keep and augment images: `device` if the operator is built for it, otherwise the CPU."""
    return device if SimCLRAugment.supports(device) else torch.device("cpu")


def places(config: PretrainConfig) -> tuple[str | Sized, str | Sized | None]:
    """Return what to read the images of a run from, and those to test on: paths, names, or what was given in Python.

    Raises:
        ValueError: `config` names none, or what was given is not there.
    """
    if not config.data:
        raise ValueError("data must be shapes, cifar10, cifar100, stl10, a folder or a tar: pass it with --data PATH")
    found: list[str | Sized | None] = []
    for name in ("data", "test_data"):
        place: str | None = getattr(config, name)
        given: Sized | None = getattr(config, f"given_{name}")
        if place is not None and is_given(place) and given is None:
            raise ValueError(
                f"the images are a {place[1:-1]} that was given in Python and is stored nowhere: give it again, as in "
                f"fastclr.Run(folder, {name}=...), or the place of the same images"
            )
        found.append(given if place is not None and is_given(place) else place)
    return "" if found[0] is None else found[0], found[1]


def find_data(config: PretrainConfig) -> None:
    """Raise a ValueError unless there is something to read where `config` has its images; fetch it if asked to."""
    for option, source in zip(("--data", "--test-data"), places(config), strict=True):
        if source is not None:
            try:
                found_sources(source, None, config.data_root, config.download)
            except ValueError as error:
                raise ValueError(f"{option}: {error}") from error


def load_data(config: PretrainConfig, batch_size: int = 0) -> Splits:
    """Load the images that `config` names.

    Args:
        config: the run.
        batch_size: images of a training step in this process; 0 if nothing is trained on them.

    Raises:
        ValueError: it names none, or names test images although the training images have no classes.
    """
    find_data(config)
    device = augment_device(resolve_device(config.device))
    in_main_memory = device.type == "cpu"
    splits = load_splits(
        *places(config),
        holdout=config.holdout,
        seed=config.seed,
        resize_shorter=config.resize_shorter,
        labels=config.labels,
        data_root=config.data_root,
        download=config.download,
        cache=config.cache,
        loader=config.loader,
        device=device,
        workers=config.workers or None,
        memory_limit=config.memory_limit,
        follow_links=config.follow_links,
        captions=config.caption_options,
        channels=config.augment.channels,
        range=config.range,
        channel_axis=config.channel_axis,
        pages=config.pages,
        batch_size=batch_size if in_main_memory else 0,
        view_bytes=METHODS[config.method].plan(config).nbytes if in_main_memory else 0,
    )
    if config.test_data is not None and splits.test is None:
        raise ValueError(
            f"test_data={config.test_data!r} cannot be used: the training images in {config.data!r} have no classes to "
            "compare with, and no captions. Omit it, or give the training images classes, by folder or with --labels"
        )
    return splits


def check_same_images(data: Splits, world: World) -> None:
    """Check that all processes have the same images and loader; otherwise their shares of a step would not match.

    Raises:
        ValueError: they differ; raised on every process.
    """
    if world.group is None:
        return
    sets = [images for images in (data.train, data.test) if images is not None]
    if not agreed(" ".join([data.loader, *(images.fingerprint for images in sets)]), world):
        raise ValueError(
            f"the processes do not have the same images: this one has {len(data.train)} of {data.train.source} "
            f"(fingerprint {data.train.fingerprint[:12]}, loader {data.loader}). Every machine needs the same files; "
            "if --loader auto chose different loaders, name one explicitly"
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one process, so that dropout can be resumed from the position alone."""
    torch.manual_seed(int(raw_bits(1, seed, (step << 16) | rank)[0]))
