"""The SimCLR model: a timm encoder and a projection head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fastclr.config import PretrainConfig

# ResNets whose weights have the same names and shapes in timm and in torchvision
TORCHVISION_TWINS = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
}


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

    def forward(self, images: Tensor, with_features: bool = False) -> Any:
        """Return the projections z ``[N, D]``, or ``(h, z)``."""
        h = self.encoder(images)
        z = self.head(h)
        return (h, z) if with_features else z

    def head_features(self, h: Tensor) -> list[Tensor]:
        """Return h and the output of every layer of the head: entry k is what fine-tuning from layer k starts from.

        A layer is a linear map with the batch normalisation and ReLU after it, so that the last entry is z
        (``ft_proj_selector`` of google-research/simclr).

        Args:
            h: features ``[N, F]`` of the encoder.

        Raises:
            TypeError: the head was not made by `build_head`.
        """
        if isinstance(self.head, nn.Identity):
            return [h]
        if not isinstance(self.head, nn.Sequential):
            raise TypeError(f"the head must be one of build_head, got {type(self.head).__name__}")
        outputs, modules = [h], list(self.head)
        for index, module in enumerate(modules):
            h = module(h)
            if index + 1 == len(modules) or isinstance(modules[index + 1], nn.Linear):
                outputs.append(h)
        return outputs

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that the encoder wants undecayed, such as a ViT's position embedding."""
        names: set[str] = getattr(self.encoder, "no_weight_decay", set)()
        return {f"encoder.{name}" for name in names}


class PerView(nn.Module):
    """Calls a model once for each half of the batch, so that batch norm sees every view by itself.

    Args:
        model: encoder and head.
    """

    def __init__(self, model: SimCLRModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, with_features: bool = False) -> Any:
        """Return what the model makes of ``[2N, 3, S, S]``, view 0 first, one view below the other."""
        h, z = (torch.cat(parts) for parts in zip(*(self.model(v, True) for v in images.chunk(2)), strict=True))
        return (h, z) if with_features else z


def build_model(config: PretrainConfig) -> SimCLRModel:
    """Build the encoder and the head that `config` describes, freshly initialised from torch's global generator."""
    encoder = encoder_from(config)
    features = feature_dim(encoder, config.augment.size)
    head = build_head(
        config.head, features, config.head_dim, config.head_layers, config.head_hidden or features, config.head_bn
    )
    return SimCLRModel(encoder, head)


def encoder_from(config: PretrainConfig) -> nn.Module:
    """Build the encoder that `config` describes, freshly initialised from torch's global generator."""
    return build_encoder(
        config.encoder,
        width=config.width,
        stem=config.stem,
        size=config.augment.size,
        patch_size=config.patch_size,
    )


def build_encoder(
    name: str, *, width: float = 1.0, stem: str = "auto", size: int = 224, patch_size: int | None = None
) -> nn.Module:
    """Create an encoder without classifier; batch norms have momentum 0.1 and eps 1e-5 as in the paper's code.

    Args:
        name: any name of `timm.list_models()`, or ``simclr_skresnet50``, ``simclr_skresnet101``,
            ``simclr_skresnet152``: the selective-kernel ResNets of SimCLR v2.
        width: multiplies the channels of a ResNet, its stem included.
        stem: ``imagenet`` keeps the model's; ``cifar`` puts a 3x3 stride-1 convolution and no pooling in its place
            (ResNets only); ``auto`` takes ``cifar`` for ResNets up to 64 px.
        size: side of the input in pixels; models with a fixed input size are built for it.
        patch_size: side of a ViT's patches in pixels; None: the model's.

    Raises:
        ValueError: the name is unknown, width, stem or patch_size is asked of a model that has none, or the patches
            do not tile the input.
    """
    import timm

    from fastclr.resnets import build_resnet, is_resnet

    if is_resnet(name):
        if patch_size is not None:
            raise ValueError(f"patch_size must be None for {name!r}, which has no patches, got {patch_size}")
        return build_resnet(name, width=width, stem=stem, size=size)
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5]
        raise ValueError(
            f"encoder must be the name of a timm model, got {name!r}" + (f"; near: {near}" if near else "")
        )
    if width != 1.0:
        raise ValueError(f"width must be 1 for {name!r}: only ResNets can be widened, got {width}")
    if stem == "cifar":
        raise ValueError(f"stem='cifar' needs a ResNet, got {name!r}")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    patches = {} if patch_size is None else {"patch_size": patch_size}
    try:
        encoder: Any = timm.create_model(name, **options, **patches, img_size=size)
    except TypeError as error:  # convolutional models take any size and no such argument
        if patches:
            raise ValueError(f"patch_size must be None for {name!r}, which has no patches, got {patch_size}") from error
        encoder = timm.create_model(name, **options)
    sides = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if isinstance(sides, tuple) and any(size % side for side in sides):
        raise ValueError(f"size must be a multiple of the patch size {sides[0]} of {name!r}, got {size}")
    return encoder  # type: ignore[no-any-return]


def torchvision_compatible(encoder_name: str, width: float = 1.0, stem: str = "auto", size: int = 224) -> bool:
    """Tell whether the weights of an encoder are those of torchvision's model of that name, but for ``fc``.

    They need no mapping: ``torchvision.models.NAME().load_state_dict(encoder.state_dict(), strict=False)`` leaves out
    ``fc.weight`` and ``fc.bias`` only. The arguments are those of `build_encoder`.
    """
    from fastclr.resnets import has_cifar_stem

    return encoder_name.partition(".")[0] in TORCHVISION_TWINS and width == 1.0 and not has_cifar_stem(stem, size)


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
