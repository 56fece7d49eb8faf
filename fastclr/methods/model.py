"""An encoder and a projection head as one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fastclr.training.config import PretrainConfig
from fastclr.methods.encoders import build_encoder, feature_dim
from fastclr.methods.heads import build_head

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


def torchvision_compatible(encoder_name: str, width: float = 1.0, stem: str = "auto", size: int = 224) -> bool:
    """Tell whether the weights of an encoder are those of torchvision's model of that name, but for ``fc``.

    They need no mapping: ``torchvision.models.NAME().load_state_dict(encoder.state_dict(), strict=False)`` leaves out
    ``fc.weight`` and ``fc.bias`` only. The arguments are those of `build_encoder`.
    """
    from fastclr.methods.resnets import has_cifar_stem

    return encoder_name.partition(".")[0] in TORCHVISION_TWINS and width == 1.0 and not has_cifar_stem(stem, size)
