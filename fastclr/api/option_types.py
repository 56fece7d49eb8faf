"""The keywords of the Python door for editors and type checkers; a test holds them to the configuration classes."""

from __future__ import annotations

import os
from collections.abc import Sized
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import TypedDict

from fastclr.augment import AugmentConfig
from fastclr.augment.config import Numbers, Pair, Quad
from fastclr.data.loader_choice import LoaderKind
from fastclr.methods import MethodOptions
from fastclr.methods.options import Activation, HeadKind, LastNorm, NormKind, StemKind
from fastclr.sources.reading import ChannelAxis, Pages, RangeChoice
from fastclr.training.config import AmpKind, CompileKind
from fastclr.training.optim import LrScaling, OptimizerKind
from fastclr.transfer.finetune import Recipe

Place = str | os.PathLike[str]
Images = str | os.PathLike[str] | Sized
Own = dict[str, Any] | MethodOptions


class AugmentKeywords(TypedDict, total=False):
    """The options of the augmentation: `AugmentConfig`."""

    size: int
    crop_scale: Pair
    crop_ratio: Pair
    flip_p: float
    jitter: Quad
    jitter_p: float
    gray_p: float
    blur_p: float
    blur_sigma: Pair
    solarize_p: float
    mean: Numbers | None
    std: Numbers | None
    style: str
    brightness: str
    min_object_covered: float
    blur_sigma_per_batch: bool
    channels: int


class MethodKeywords(TypedDict, total=False):
    """The options of the method: together under its name, or those that nearly all have."""

    simclr: Own
    dcl: Own
    supcon: Own
    moco: Own
    cpc: Own
    pirl: Own
    byol: Own
    simsiam: Own
    barlow: Own
    vicreg: Own
    dino: Own
    lejepa: Own
    rotation: Own
    jigsaw: Own
    context: Own
    autoencoder: Own
    gan: Own
    supervised: Own
    clip: Own
    siglip: Own
    blip: Own
    coca: Own
    temperature: float
    learnable_temperature: bool


class AliasKeywords(TypedDict, total=False):
    """What other libraries call an option: `fastclr.training.keywords.ALIASES`."""

    model: str | nn.Module
    num_workers: int | None
    img_size: int
    in_chans: int
    initial_checkpoint: Place | None


class PretrainKeywords(AugmentKeywords, MethodKeywords, AliasKeywords, total=False):
    """What `fastclr.pretrain` takes beside its own parameters: the fields of `PretrainConfig`."""

    augment: dict[str, Any] | AugmentConfig
    test_data: Images | None
    holdout: float
    resize_shorter: int | None
    labels: Place | None
    captions: Place | None
    caption_key: str
    caption_columns: tuple[str, str] | None
    data_root: Place
    download: bool
    cache: Place
    follow_links: Place | None
    loader: LoaderKind
    workers: int | None
    memory: float | None
    range: RangeChoice | None
    channel_axis: ChannelAxis
    pages: Pages
    prefetch: int
    init: Place | None
    init_prefix: str | None
    init_partial: bool
    pretrained: bool
    width: float
    stem: StemKind
    patch_size: int | None
    norm: NormKind
    head: HeadKind
    head_layers: int
    head_hidden: int | None
    head_dim: int
    head_bn: bool
    head_last_bn: LastNorm
    head_activation: Activation
    sync_bn: bool
    sync_bn_group: int | None
    bn_per_view: bool
    epochs: int
    batch_size: int
    micro_batch: int | None
    optimizer: OptimizerKind
    lr: float
    lr_scaling: LrScaling
    momentum: float
    nesterov: bool
    lars_eta: float
    weight_decay: float
    weight_decay_end: float | None
    warmup_epochs: float
    warmup_share: float | None
    clip_grad: float | None
    seed: int
    device: str | torch.device
    amp: AmpKind
    channels_last: bool
    compile: CompileKind
    deterministic: bool
    online_probe: bool
    knn_every: int
    knn_k: int
    knn_temperature: float | None
    log_every: int
    checkpoint_every: int
    checkpoint_epochs: int
    keep_checkpoints: int
    tensorboard: bool
    wandb: str | None
    mlflow: str | None


class ResumeKeywords(PretrainKeywords, total=False):
    """What `Run.resume` takes: all of `PretrainConfig`."""

    data: Images
    method: str
    encoder: str | nn.Module


class ImageKeywords(TypedDict, total=False):
    """Which images, labels and device: `ImageOptions`."""

    data: Images | None
    test_data: Images | None
    labels: Place | None
    device: str | torch.device


class EvaluateKeywords(ImageKeywords, total=False):
    """What `Run.knn` takes beside its own parameters: `EvaluateOptions`."""

    features: str


class ProbeKeywords(EvaluateKeywords, total=False):
    """What `Run.probe` takes beside the protocol: `ProbeOptions`."""

    seeds: int
    l2: float | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    weight_decay: float | None


class TrainingKeywords(ImageKeywords, total=False):
    """The device, images and folder of a training on labels: `TrainingOptions`."""

    deterministic: bool
    name: str | None
    overwrite: bool


class FinetuneOwn(TypedDict, total=False):
    """How a network is fine-tuned: `FinetuneConfig`."""

    share: str
    from_layer: int | None
    recipe: Recipe
    from_scratch: bool
    epochs: int | None
    batch_size: int | None
    lr: float | None
    seed: int
    seeds: int


class DistillOwn(TypedDict, total=False):
    """How a student is trained: `DistillConfig`."""

    student: str | None
    student_width: float | None
    temperature: float
    share: str | None
    label_weight: float
    no_teacher: bool
    epochs: int | None
    batch_size: int | None
    lr: float | None
    seed: int
    seeds: int


class FinetuneKeywords(FinetuneOwn, TrainingKeywords, total=False):
    """What `Run.finetune` takes."""


class DistillKeywords(DistillOwn, TrainingKeywords, total=False):
    """What `Run.distill` takes beside the teacher."""


Protocol = Literal["lbfgs", "precomputed", "augmented"]
