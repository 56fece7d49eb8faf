"""An encoder and a projection head combined in one model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastclr.methods.encoders import build_encoder, feature_dim
from fastclr.methods.heads import build_head, split_layers
from fastclr.methods.options import ModelOptions
from fastclr.methods.start import check_tag, start


class EncoderHead(nn.Module):
    """Encoder f and projection head g: h = f(x), z = g(h) (Chen et al. 2020, section 2.1).

    Args:
        encoder: module from images ``[N, C, S, S]`` to features ``[N, F]``.
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
        """Return h and the output of every layer of the head; fine-tuning from layer k starts from entry k.

        A layer is a linear map with the batch normalisation and ReLU that follow it, so the last entry is z
        (``ft_proj_selector`` of google-research/simclr).

        Args:
            h: features ``[N, F]`` of the encoder.

        Raises:
            TypeError: the head was not made by `build_head`.
        """
        outputs = [h]
        for layer in split_layers(self.head):
            outputs.append(layer(outputs[-1]))
        return outputs

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that the encoder exempts from weight decay, such as a ViT's position embedding."""
        names: set[str] = getattr(self.encoder, "no_weight_decay", set)()
        return {f"encoder.{name}" for name in names}


def build_model(config: ModelOptions) -> EncoderHead:
    """Build the encoder and head that `config` describes, initialised from torch's global generator.

    The encoder of a fresh run has the starting weights that `config` names.
    """
    encoder = encoder_from(config)
    if config.fresh:
        start(encoder, config)
    features = feature_dim(encoder, config.augment.size)
    head = build_head(
        config.head,
        features,
        config.head_dim,
        config.head_layers,
        config.head_hidden or features,
        config.head_bn,
        config.head_last_bn,
        config.head_activation,
    )
    return EncoderHead(encoder, head)


def check_start(config: ModelOptions, *, download: bool = False) -> list[str]:
    """Return lines on the weights that a new run starts from, having found them; torch's generator stays as it is.

    Raises:
        Exception: as `start`; or the encoder's name means weights that were not asked for.
    """
    if not config.pretrained:
        check_tag(config.encoder)
    if config.init is None and not config.pretrained:
        return []
    with torch.random.fork_rng(devices=[]):
        return start(encoder_from(config), config, download=download)


def encoder_from(config: ModelOptions) -> nn.Module:
    """Build the encoder that `config` describes, initialised from torch's global generator.

    Raises:
        ValueError: it cannot be built, or cannot take views of all sizes that the method makes.
    """
    views = config.options.pair(config.augment)
    sizes = {view.size for view in views} if isinstance(views, tuple) else set()
    return build_encoder(
        config.encoder,
        others=sorted(sizes - {config.augment.size}),
        width=config.width,
        stem=config.stem,
        size=config.augment.size,
        patch_size=config.patch_size,
        norm=config.norm,
        given=config.given,
        channels=config.augment.channels,
    )
