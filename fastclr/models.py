"""The SimCLR model: a timm encoder and a projection head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fastclr.config import PretrainConfig

CIFAR_STEM_UP_TO = 64  # pixels: a stride-4 stem leaves too little of smaller images


class SimCLRModel(nn.Module):
    """Encoder f and projection head g: h = f(x), z = g(h) (Chen et al. 2020, section 2.1).

    Args:
        encoder: module from images ``[N, 3, S, S]`` to features ``[N, F]``.
        head: module from features ``[N, F]`` to projections ``[N, D]``.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the projections z ``[N, D]``."""
        projections: Tensor = self.head(self.encoder(images))
        return projections


class PerView(nn.Module):
    """Calls a model once for each half of the batch, so that batch norm sees every view by itself.

    Args:
        model: module from images ``[2N, 3, S, S]``, view 0 first, to projections ``[2N, D]``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the projections of both views, one below the other."""
        return torch.cat([self.model(view) for view in images.chunk(2)])


def build_model(config: PretrainConfig) -> SimCLRModel:
    """Build the encoder and the head that `config` describes, freshly initialised from torch's global generator."""
    encoder = build_encoder(config.encoder, width=config.width, stem=config.stem, size=config.augment.size)
    features = feature_dim(encoder, config.augment.size)
    head = build_head(
        config.head, features, config.head_dim, config.head_layers, config.head_hidden or features, config.head_bn
    )
    return SimCLRModel(encoder, head)


def build_encoder(name: str, *, width: float = 1.0, stem: str = "auto", size: int = 224) -> nn.Module:
    """Create a timm model without classifier, optionally with a CIFAR stem and other widths.

    Args:
        name: any name of `timm.list_models()`.
        width: multiplies the channels of a ResNet, its stem included.
        stem: ``imagenet`` keeps timm's; ``cifar`` puts a 3x3 stride-1 convolution and no pooling in its place
            (ResNets only); ``auto`` takes ``cifar`` for ResNets up to 64 px.
        size: side of the input in pixels; models with a fixed input size are built for it.

    Raises:
        ValueError: timm does not know the name, or width/stem is asked of a model that has none.
    """
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5]
        raise ValueError(
            f"encoder must be the name of a timm model, got {name!r}" + (f"; near: {near}" if near else "")
        )
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    is_resnet = timm.models.model_entrypoint(name).__module__ == "timm.models.resnet"
    if is_resnet:
        options["zero_init_last"] = True  # residual branches start at zero, as in the paper's code
        if width != 1.0:
            options["channels"] = tuple(max(1, round(c * width)) for c in (64, 128, 256, 512))
    elif width != 1.0:
        raise ValueError(f"width must be 1 for {name!r}: only timm's ResNets can be widened, got {width}")
    try:
        encoder: Any = timm.create_model(name, **options, img_size=size)
    except TypeError:  # convolutional models take any size and no such argument
        encoder = timm.create_model(name, **options)
    plain_stem = is_resnet and isinstance(getattr(encoder, "conv1", None), nn.Conv2d)
    if stem == "cifar" and not plain_stem:
        raise ValueError(f"stem='cifar' needs a ResNet with a single first convolution, got {name!r}")
    if width != 1.0:
        if not plain_stem:
            raise ValueError(f"width must be 1 for {name!r}: its stem has several convolutions, got {width}")
        _widen_stem(encoder, max(1, round(64 * width)))
    if plain_stem and (stem == "cifar" or (stem == "auto" and size <= CIFAR_STEM_UP_TO)):
        encoder.conv1 = _conv(3, encoder.conv1.out_channels, 3)
        encoder.maxpool = nn.Identity()
    return encoder  # type: ignore[no-any-return]


def build_head(kind: str, features: int, dim: int, layers: int, hidden: int, bn: bool) -> nn.Module:
    """Build a projection head: none | linear | mlp with ReLU between its layers.

    With `bn` every layer is a bias-free linear map followed by batch normalisation, the last one without shift,
    as in google-research/simclr (`model_util.projection_head`).
    """
    if kind == "none":
        return nn.Identity()
    count = 1 if kind == "linear" else layers
    modules: list[nn.Module] = []
    for index in range(count):
        last = index == count - 1
        out = dim if last else hidden
        modules.append(nn.Linear(features if index == 0 else hidden, out, bias=not bn))
        if bn:
            norm = nn.BatchNorm1d(out)
            if last:
                norm.bias.requires_grad_(False)
            modules.append(norm)
        if not last:
            modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def feature_dim(encoder: nn.Module, size: int) -> int:
    """Return F of an encoder from images ``[N, 3, size, size]`` to features ``[N, F]``."""
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        weight = next(encoder.parameters())
        shape = encoder(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)).shape
    encoder.train(was_training)
    if len(shape) != 2:
        raise ValueError(f"the encoder must return features [N, F], got shape {tuple(shape)}")
    return int(shape[1])


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _widen_stem(encoder: Any, stem: int) -> None:
    """Give a timm ResNet, whose stem has 64 channels whatever `channels` says, a stem of `stem` channels."""
    encoder.conv1 = _conv(3, stem, encoder.conv1.kernel_size[0], encoder.conv1.stride[0])
    encoder.bn1 = nn.BatchNorm2d(stem)
    first = encoder.layer1[0]
    kernel = first.conv1.kernel_size[0]
    first.conv1 = _conv(stem, first.conv1.out_channels, kernel)
    outputs = encoder.layer1[-1].bn2.num_features if not hasattr(first, "bn3") else first.bn3.num_features
    if outputs == stem:
        first.downsample = None
    else:
        first.downsample = nn.Sequential(_conv(stem, outputs, 1), nn.BatchNorm2d(outputs))
