"""What a pretraining run is: one dataclass, its checks, and the presets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fastclr.augment import AugmentConfig
from fastclr.checkpoint import write_atomically
from fastclr.data import LoaderKind

HeadKind = Literal["none", "linear", "mlp"]
StemKind = Literal["auto", "imagenet", "cifar"]
OptimizerKind = Literal["sgd", "adamw"]
AmpKind = Literal["auto", "bf16", "off"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A SimCLR pretraining run; every field is an option of ``fastclr pretrain``.

    Raises:
        ValueError: a value is outside of its range; the message names the field, what it takes and what it got.
    """

    data: str = ""
    """Images: `shapes` (built in), a folder, a tar of one, WebDataset shards (`x-{00..99}.tar`), a CIFAR archive."""
    test_data: str | None = None
    """Labelled images to evaluate on. Default: the test split of `data`, or a held-out share of it."""
    holdout: float = 0.1
    """Share of `data` kept from training for evaluation when it is labelled and has no test split."""
    resize_shorter: int | None = None
    """Shrink larger images to this shorter side while loading, so that the set fits into memory."""
    loader: LoaderKind = "auto"
    """`resident` keeps decoded images; `dali`, `torch` decode every epoch; `auto`: resident if it fits, else dali."""
    workers: int | None = None
    """Threads (resident, dali) or processes (torch) that decode. Default: one per core."""
    prefetch: int = 2
    """Batches that dali, or each worker of torch, decodes ahead of the training step."""

    encoder: str = "resnet18"
    """Name of a timm model."""
    width: float = 1.0
    """Multiplies the channels of a ResNet."""
    stem: StemKind = "auto"
    """First layers of a ResNet: `cifar` is a 3x3 convolution without pooling; `auto` takes it up to 64 px."""
    head: HeadKind = "mlp"
    """Projection head."""
    head_layers: int = 2
    """Layers of an mlp head, 1 to 3."""
    head_hidden: int | None = None
    """Hidden width of an mlp head. Default: the encoder's."""
    head_dim: int = 128
    """Dimension of the projection z."""
    head_bn: bool = True
    """Batch normalisation after every layer of the head, as in the paper's code."""

    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig.cifar(32))
    """The augmentation of both views."""

    temperature: float = 0.5
    """Temperature of NT-Xent."""
    learnable_temperature: bool = False
    """Train the temperature too."""

    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 256
    """Images per step; each gives two views."""
    optimizer: OptimizerKind = "sgd"
    """`sgd` has Nesterov off and decays every parameter; `adamw` leaves biases and norms undecayed."""
    lr: float = 0.06
    """Peak learning rate, used as it is."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay."""
    warmup_epochs: float = 0.0
    """Linear warm-up from zero, in epochs; the cosine to zero follows, step by step."""
    clip_grad: float | None = None
    """Clip the gradient's norm to this value."""

    seed: int = 0
    """Seeds the weights, the order of the data and the augmentation."""
    device: str = "auto"
    """`auto` (CUDA if there is one), or a torch device."""
    amp: AmpKind = "auto"
    """bfloat16 autocast of the encoder: `auto` where the device computes it natively."""
    channels_last: bool = True
    """Memory format of images and weights; changes speed, not meaning."""
    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""

    knn_every: int = 10
    """Epochs between kNN evaluations while training; 0 only at the end."""
    knn_k: int = 20
    """Neighbours that vote."""
    knn_temperature: float | None = 0.1
    """Votes weigh exp(cosine/temperature); None: all the same."""
    log_every: int = 10
    """Steps between log records."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 means at the end of every epoch only."""

    def __post_init__(self) -> None:
        """Check ranges."""
        checks: list[tuple[str, bool, str]] = [
            ("holdout", 0.0 <= self.holdout < 1.0, "a number in [0, 1)"),
            ("resize_shorter", self.resize_shorter is None or self.resize_shorter >= 1, "a positive number or None"),
            ("loader", self.loader in get_args(LoaderKind), f"one of {get_args(LoaderKind)}"),
            ("workers", self.workers is None or self.workers >= 0, "at least 0 or None"),
            ("prefetch", self.prefetch >= 1, "at least 1"),
            ("width", self.width > 0, "a positive number"),
            ("stem", self.stem in get_args(StemKind), f"one of {get_args(StemKind)}"),
            ("head", self.head in get_args(HeadKind), f"one of {get_args(HeadKind)}"),
            ("head_layers", 1 <= self.head_layers <= 3, "1, 2 or 3"),
            ("head_hidden", self.head_hidden is None or self.head_hidden >= 1, "a positive number or None"),
            ("head_dim", self.head_dim >= 1, "a positive number"),
            ("temperature", 1e-8 <= abs(self.temperature) < float("inf"), "a finite number other than 0"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("optimizer", self.optimizer in get_args(OptimizerKind), f"one of {get_args(OptimizerKind)}"),
            ("lr", 0 < self.lr < float("inf"), "a positive number"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"at least 0 and below epochs={self.epochs}"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "a positive number or None"),
            ("seed", 0 <= self.seed < 2**63, "an integer in [0, 2**63)"),
            ("amp", self.amp in get_args(AmpKind), f"one of {get_args(AmpKind)}"),
            ("knn_every", self.knn_every >= 0, "at least 0"),
            ("knn_k", self.knn_k >= 1, "at least 1"),
            ("knn_temperature", self.knn_temperature is None or self.knn_temperature > 0, "positive or None"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("checkpoint_every", self.checkpoint_every >= 0, "at least 0"),
        ]
        for name, good, expected in checks:
            if not good:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))

    @staticmethod
    def load(path: Path) -> PretrainConfig:
        """Read what `save` wrote; an unknown or ill-typed field is a ValueError."""
        return PretrainConfig.from_dict(json.loads(path.read_text()))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> PretrainConfig:
        """Build from plain values, as found in a checkpoint or a JSON file."""
        known = {f.name for f in dataclasses.fields(PretrainConfig)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown option(s) {unknown} in the configuration; was it made by a newer fastclr?")
        stored: dict[str, Any] = values.get("augment", {})
        augment: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v
            for name, v in stored.items()  # JSON has no tuples
        }
        return PretrainConfig(**{**values, "augment": AugmentConfig(**augment)})


def difference(old: PretrainConfig, new: PretrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, as ``{name: (old, new)}``."""
    fields = [f.name for f in dataclasses.fields(PretrainConfig)]
    return {n: (getattr(old, n), getattr(new, n)) for n in fields if getattr(old, n) != getattr(new, n)}
