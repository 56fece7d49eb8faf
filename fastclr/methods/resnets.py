"""ResNets of arbitrary width and stem, and SimCLR v2's selective-kernel ResNets, all built from timm's blocks."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import GroupNorm1
from timm.models.resnet import ResNet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import nn

CIFAR_STEM_UP_TO = 64  # pixels: a stride-4 stem leaves too little of smaller images
STAGES = (64, 128, 256, 512)
FAMILIES = {"timm.models.resnet", "timm.models.sknet"}  # modules whose ResNets accept `channels` and `stem_width`
SIMCLR_SK = {
    "simclr_skresnet50": (3, 4, 6, 3),
    "simclr_skresnet101": (3, 4, 23, 3),
    "simclr_skresnet152": (3, 8, 36, 3),
}


class SimCLRSelectiveKernel(SelectiveKernelBottleneck):  # type: ignore[misc]
    """The bottleneck of SimCLR v2 with sk_ratio 0.0625 (google-research/simclr, ``resnet.py``, ``sk_conv2d``).

    Two 3x3 convolutions of the full input, mixed by a softmax over the two; max(32, planes/16) hidden channels.
    timm's own ``skresnet50d`` differs: each convolution sees half of the input, and one of them is dilated.
    """

    def __init__(self, inplanes: int, planes: int, *arguments: Any, **options: Any) -> None:
        selection = {"kernel_size": 3, "split_input": False, "rd_channels": max(planes // 16, 32)}
        super().__init__(inplanes, planes, *arguments, sk_kwargs=selection, **options)


def is_resnet(name: str) -> bool:
    """Tell whether `build_resnet` can build this model."""
    return name in SIMCLR_SK or (timm.is_model(name) and timm.models.model_entrypoint(name).__module__ in FAMILIES)


def has_selective_kernels(name: str) -> bool:
    """Tell whether a ResNet is one of those with selective kernels."""
    return name in SIMCLR_SK or timm.models.model_entrypoint(name).__module__ == "timm.models.sknet"


def has_cifar_stem(stem: str, size: int) -> bool:
    """Tell whether a ResNet's stem is a 3x3 stride-1 convolution without pooling."""
    return stem == "cifar" or (stem == "auto" and size <= CIFAR_STEM_UP_TO)


def build_resnet(name: str, *, width: float, stem: str, size: int, norm: str = "batch", channels: int = 3) -> nn.Module:
    """Create a ResNet without a classifier; see `fastclr.methods.encoders.build_encoder`."""
    options = timm_options(name, width, norm)
    kernel, stride = (3, 1) if has_cifar_stem(stem, size) else (7, 2)
    plain = {"num_classes": 0, "zero_init_last": True, "in_chans": channels}  # residual branches start at zero
    encoder = _create(name, {**plain, **options})
    if has_cifar_stem(stem, size):
        encoder.maxpool = nn.Identity()
    if has_cifar_stem(stem, size) or "stem_type" in options:
        encoder.conv1 = nn.Conv2d(channels, len(encoder.bn1.weight), kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    return encoder  # type: ignore[no-any-return]


def timm_options(name: str, width: float, norm: str = "batch") -> dict[str, Any]:
    """Return the options for which timm builds a ResNet of a width, but for a stem of a single convolution.

    timm can only widen a stem of three: ``stem_type`` asks for it where the model has one, to be replaced.
    """
    layer = norm == "layer" and not has_selective_kernels(name)  # whose blocks are written for batch norm
    norms: dict[str, Any] = {"norm_layer": GroupNorm1} if layer else {}
    if width == 1.0:
        return norms
    with torch.device("meta"):
        plan = _create(name, {"num_classes": 0})
    options: dict[str, Any] = {**norms, "channels": tuple(max(1, round(c * width)) for c in STAGES)}
    options["stem_width"] = max(1, round(plan.bn1.num_features * width / 2))
    return {**options, "stem_type": "deep"} if isinstance(plan.conv1, nn.Conv2d) else options


def _create(name: str, options: dict[str, Any]) -> Any:
    """Call timm's constructor."""
    if name not in SIMCLR_SK:
        return timm.create_model(name, pretrained=False, **options)
    # in the paper's code selective kernels imply ResNet-D: a three-convolution stem and pooled shortcuts
    plan = {"stem_width": 32, **options, "stem_type": "deep", "avg_down": True}
    encoder: Any = ResNet(SimCLRSelectiveKernel, SIMCLR_SK[name], **plan)
    # unlike timm's ResNet-D, it also pools in the first stage: 2x2 at stride 1 over replicated edges
    encoder.layer1[0].downsample[0] = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
    return encoder
