"""Options of the networks and the method that are common to all methods."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.losses.scalars import SMALLEST

HeadKind = Literal["none", "linear", "mlp"]
StemKind = Literal["auto", "imagenet", "cifar"]
NormKind = Literal["batch", "layer"]
LastNorm = Literal["scale", "plain", "none", "bias"]
Activation = Literal["relu", "gelu"]

# field, whether its value is valid, what it must be
Check = tuple[str, bool, str]


def temperature_check(value: float, name: str = "temperature", least: float = SMALLEST) -> Check:
    """Return the constraint on a temperature: the losses know negative ones, which push positives apart."""
    return (name, least <= value < math.inf, f"a finite number of at least {least:g}")


def momentum_check(value: float) -> Check:
    """Return the constraint on the momentum of a twin."""
    return ("momentum", 0 <= value <= 1, "a number in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """A method's own options; an instance of this base class stands for the chosen method's defaults."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return []

    def pair(self, augment: AugmentConfig) -> AugmentConfig | tuple[AugmentConfig, ...]:
        """Return the augmentation of all views, or of each."""
        return augment

    @property
    def view_count(self) -> int:
        """Number of views of an image."""
        return 2


@dataclass(frozen=True, kw_only=True)
class ViewPairOptions(MethodOptions):
    """How the second view differs from the first, as in BYOL."""

    second_blur_p: float | None = None
    """Probability of a blur in the second view; None: as in the first."""
    second_solarize_p: float | None = 0.2
    """Probability of solarisation in the second view, BYOL's by default; None: as in the first."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        given = [(name, getattr(self, name)) for name in ("second_blur_p", "second_solarize_p")]
        return [(name, value is None or 0 <= value <= 1, "a probability or None") for name, value in given]

    def pair(self, augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
        """Return the augmentation of each view."""
        blur = augment.blur_p if self.second_blur_p is None else self.second_blur_p
        solarize = augment.solarize_p if self.second_solarize_p is None else self.second_solarize_p
        return augment, dataclasses.replace(augment, blur_p=blur, solarize_p=solarize)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The method, its networks and its views."""

    method: str = "simclr"
    """Pretraining method."""
    options: MethodOptions = field(default_factory=MethodOptions)
    """The method's own options."""
    encoder: str = "resnet18"
    """Name of a timm model, simclr_skresnet50, 101 or 152 (the selective-kernel ResNets of SimCLR v2), or
    `module:factory`, a function of yours that returns a torch.nn.Module from images to features."""
    given: nn.Module | None = field(default=None, repr=False, compare=False)
    """The encoder itself, where one was given in Python. Never stored."""
    init: str | None = None
    """Start the encoder from a file of PyTorch or safetensors, of any library, or from a run: names and shapes decide
    what goes where."""
    init_prefix: str | None = None
    """Where in the file the weights lie, such as `state_dict.module.encoder_k`, if there are several places."""
    init_partial: bool = False
    """Accept a file that lacks some of the encoder's weights; these start random."""
    pretrained: bool = False
    """Start from the weights that timm publishes for the encoder; --download permits to fetch them."""
    fresh: bool = field(default=False, repr=False, compare=False)
    """Whether the networks are built to start a run, and take the starting weights. Never stored."""
    width: float = 1.0
    """Multiplies the channels of a ResNet, its stem included."""
    stem: StemKind = "auto"
    """First layers of a ResNet: `cifar` is a 3x3 convolution without pooling; `auto` uses it up to 64 px."""
    patch_size: int | None = None
    """Side of a ViT's patches in pixels. Default: the model's, meant for 224 px; 4 is usual at 32 px."""
    norm: NormKind = "batch"
    """Normalisation in a ResNet: over the batch, or over channels and positions of each image (`layer`)."""
    head: HeadKind = "mlp"
    """Type of projection head."""
    head_layers: int = 2
    """Layers of an mlp head, 1 to 3."""
    head_hidden: int | None = None
    """Hidden width of an mlp head. Default: the encoder's."""
    head_dim: int = 128
    """Dimension of the projection z."""
    head_bn: bool = True
    """Batch normalisation after every layer of the head, as in the paper's code."""
    head_last_bn: LastNorm = "scale"
    """With head_bn, end of the head: batch norm with a `scale`, `plain` batch norm, `none`, or a `bias` instead."""
    head_activation: Activation = "relu"
    """Between the layers of an mlp head."""
    sync_bn: bool = True
    """Synchronise batch norm over all processes; off: each process normalises separately."""
    sync_bn_group: int | None = None
    """Processes that share batch norm statistics. Default: all of them."""
    bn_per_view: bool = False
    """Run the views through the model separately, so that batch norm sees one view at a time."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig.cifar(32))
    """Augmentation of the views."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("init", self.init is None or not self.pretrained, "None with pretrained"),
            ("init", self.init != "", "a file or the folder of a run"),
            ("init_prefix", self.init_prefix is None or self.init is not None, "None without init"),
            ("init_partial", not self.init_partial or self.init is not None or self.pretrained, "off without init"),
            ("encoder", isinstance(self.encoder, str), "a name; fastclr.pretrain(encoder=...) takes modules"),
            ("width", 0 < self.width <= 16, "a positive number up to 16"),
            ("stem", self.stem in get_args(StemKind), f"one of {get_args(StemKind)}"),
            ("norm", self.norm in get_args(NormKind), f"one of {get_args(NormKind)}"),
            ("patch_size", self.patch_size is None or self.patch_size >= 1, "a positive number or None"),
            ("head", self.head in get_args(HeadKind), f"one of {get_args(HeadKind)}"),
            ("head_layers", 1 <= self.head_layers <= 3, "1, 2 or 3"),
            ("head_hidden", self.head_hidden is None or 1 <= self.head_hidden <= 2**20, "1 to 2**20 or None"),
            ("head_dim", 1 <= self.head_dim <= 2**20, "1 to 2**20"),
            ("head_last_bn", self.head_last_bn in get_args(LastNorm), f"one of {get_args(LastNorm)}"),
            ("head_activation", self.head_activation in get_args(Activation), f"one of {get_args(Activation)}"),
            ("sync_bn_group", self.sync_bn_group is None or self.sync_bn_group >= 1, "a positive number or None"),
        ]
