"""What a pretraining run is: one dataclass, its checks, and the presets."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fastclr.augment import AugmentConfig
from fastclr.data import LoaderKind
from fastclr.files import write_text_atomically

HeadKind = Literal["none", "linear", "mlp"]
StemKind = Literal["auto", "imagenet", "cifar"]
OptimizerKind = Literal["lars", "sgd", "adamw"]
LrScaling = Literal["none", "linear", "sqrt"]
AmpKind = Literal["auto", "bf16", "off"]
CompileKind = Literal["off", "default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A SimCLR pretraining run; every field is an option of ``fastclr pretrain``.

    Raises:
        ValueError: a value is outside of its range; the message names the field, what it takes and what it got.
    """

    data: str = ""
    """Images: `shapes`, `cifar10`, `cifar100`, `stl10`, a folder, a tar, or WebDataset shards `x-{00..99}.tar`."""
    test_data: str | None = None
    """Labelled images to evaluate on. Default: the test split of `data`, or a held-out share of it."""
    holdout: float = 0.1
    """Share of `data` kept from training for evaluation when it is labelled and has no test split."""
    resize_shorter: int | None = None
    """Shrink larger images to this shorter side while loading, so that the set fits into memory."""
    labels: str | None = None
    """CSV file with the columns name and label that gives the classes; without it, folders do."""
    data_root: str = "data"
    """Folder with the files of `cifar10`, `cifar100` and `stl10`."""
    download: bool = False
    """Fetch them when they are not there."""
    cache: str = "auto"
    """Where decoded images are kept for the next run: `auto` is ~/.cache/fastclr, `off` nowhere, or a folder."""
    loader: LoaderKind = "auto"
    """`resident` keeps decoded images; `dali`, `torch` decode every epoch; `auto`: resident if it fits, else dali."""
    workers: int | None = None
    """Threads (resident, dali) or processes (torch) that decode. Default: one per core."""
    prefetch: int = 2
    """Batches that dali, or each worker of torch, decodes ahead of the training step."""

    encoder: str = "resnet18"
    """Name of a timm model, or simclr_skresnet50, 101 or 152: the selective-kernel ResNets of SimCLR v2."""
    width: float = 1.0
    """Multiplies the channels of a ResNet, its stem included."""
    stem: StemKind = "auto"
    """First layers of a ResNet: `cifar` is a 3x3 convolution without pooling; `auto` takes it up to 64 px."""
    patch_size: int | None = None
    """Side of a ViT's patches in pixels. Default: the model's, which is for 224 px; 4 is usual at 32 px."""
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
    """Images per step over all processes; each gives two views."""
    micro_batch: int | None = None
    """Images per forward pass: the gradient of the whole batch in the memory of a small one. Default: all at once."""
    sync_bn: bool = True
    """Batch norm over all processes; off: each process by itself."""
    sync_bn_group: int | None = None
    """Processes that share batch norm statistics. Default: all of them."""
    bn_per_view: bool = False
    """Run the views through the model one after the other, so that batch norm sees each by itself."""
    optimizer: OptimizerKind = "sgd"
    """`sgd` decays every parameter; `adamw` leaves biases and norms undecayed; `lars` has the rules of the paper."""
    lr: float = 0.06
    """Base learning rate; lr_scaling makes the peak from it."""
    lr_scaling: LrScaling = "none"
    """The peak is lr (`none`), lr B / 256 (`linear`) or lr sqrt(B) (`sqrt`), with B the global batch_size."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    nesterov: bool = False
    """Nesterov momentum, of LARS and SGD."""
    lars_eta: float = 0.001
    """Trust coefficient of LARS."""
    weight_decay: float = 5e-4
    """Weight decay."""
    warmup_epochs: float = 0.0
    """Linear warm-up from zero, in epochs; the cosine to zero follows, step by step."""
    warmup_share: float | None = None
    """The same as a share of all epochs, in place of warmup_epochs."""
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
    compile: CompileKind = "off"
    """Mode of torch.compile for encoder and head; `reduce-overhead` replays CUDA graphs."""
    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""

    online_probe: bool = False
    """Train a linear classifier on the features meanwhile, behind a stopped gradient, and log its accuracy."""
    knn_every: int = 10
    """Epochs between kNN evaluations while training; 0 only at the end."""
    knn_k: int = 20
    """Neighbours that vote."""
    knn_temperature: float | None = 0.1
    """Votes weigh exp(cosine/temperature); None: all the same."""
    log_every: int = 10
    """Steps between log records."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0 for none."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints; one is also written before every evaluation, at the end, and on SIGTERM or Ctrl-C."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; the older ones stand in for a newest one that is damaged."""
    tensorboard: bool = False
    """Log to TensorBoard too: event files in `tensorboard` in the folder of the run."""
    wandb: str | None = None
    """Log to this project of Weights & Biases too."""

    def __post_init__(self) -> None:
        """Check ranges."""
        share = self.warmup_share
        alone = share is None or not self.warmup_epochs
        may_look_ahead = self.optimizer != "adamw" and self.momentum > 0
        checks: list[tuple[str, bool, str]] = [
            ("holdout", 0.0 <= self.holdout < 1.0, "a number in [0, 1)"),
            ("resize_shorter", self.resize_shorter is None or self.resize_shorter >= 1, "a positive number or None"),
            ("loader", self.loader in get_args(LoaderKind), f"one of {get_args(LoaderKind)}"),
            ("workers", self.workers is None or self.workers >= 0, "at least 0 or None"),
            ("prefetch", self.prefetch >= 1, "at least 1"),
            ("width", self.width > 0, "a positive number"),
            ("stem", self.stem in get_args(StemKind), f"one of {get_args(StemKind)}"),
            ("patch_size", self.patch_size is None or self.patch_size >= 1, "a positive number or None"),
            ("head", self.head in get_args(HeadKind), f"one of {get_args(HeadKind)}"),
            ("head_layers", 1 <= self.head_layers <= 3, "1, 2 or 3"),
            ("head_hidden", self.head_hidden is None or self.head_hidden >= 1, "a positive number or None"),
            ("head_dim", self.head_dim >= 1, "a positive number"),
            ("temperature", 1e-8 <= abs(self.temperature) < float("inf"), "a finite number other than 0"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2: the loss contrasts images"),
            ("micro_batch", self.micro_batch is None or self.micro_batch >= 1, "a positive number or None"),
            ("online_probe", not (self.online_probe and self.micro_batch), "off with micro_batch"),
            ("sync_bn_group", self.sync_bn_group is None or self.sync_bn_group >= 1, "a positive number or None"),
            ("optimizer", self.optimizer in get_args(OptimizerKind), f"one of {get_args(OptimizerKind)}"),
            ("lr", 0 < self.lr < float("inf"), "a positive number"),
            ("lr_scaling", self.lr_scaling in get_args(LrScaling), f"one of {get_args(LrScaling)}"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("nesterov", not self.nesterov or may_look_ahead, "False for adamw and without momentum"),
            ("lars_eta", 0 < self.lars_eta < float("inf"), "a positive number"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"at least 0 and below epochs={self.epochs}"),
            ("warmup_share", share is None or 0 <= share < 1, "a number in [0, 1) or None"),
            ("warmup_share", alone, f"None beside warmup_epochs={self.warmup_epochs}"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "a positive number or None"),
            ("seed", 0 <= self.seed < 2**63, "an integer in [0, 2**63)"),
            ("amp", self.amp in get_args(AmpKind), f"one of {get_args(AmpKind)}"),
            ("compile", self.compile in get_args(CompileKind), f"one of {get_args(CompileKind)}"),
            ("knn_every", self.knn_every >= 0, "at least 0"),
            ("knn_k", self.knn_k >= 1, "at least 1"),
            ("knn_temperature", self.knn_temperature is None or self.knn_temperature > 0, "positive or None"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("checkpoint_every", self.checkpoint_every >= 0, "at least 0"),
            ("checkpoint_epochs", self.checkpoint_epochs >= 1, "at least 1"),
            ("keep_checkpoints", self.keep_checkpoints >= 1, "at least 1"),
            ("wandb", self.wandb != "", "the name of a project or None"),
        ]
        for name, good, expected in checks:
            if not good:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        write_text_atomically(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

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
