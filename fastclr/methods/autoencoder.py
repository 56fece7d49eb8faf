"""Autoencoder: draw the image again from its embedding, whole or with pixels left out. A baseline."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.data.batch import Batch
from fastclr.methods.base import Views, rows_of
from fastclr.methods.draws import uniforms
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check
from fastclr.methods.own_encoder import channels_of
from fastclr.methods.pretext import OneView, OneViewOptions


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(OneViewOptions):
    """The options of the autoencoder."""

    noise: float = 0.0
    """Share of pixels that the encoder sees as 0, drawn anew for each view; above 0: a denoising autoencoder."""
    decoder_width: int = 32
    """Channels of the decoder's last stage; each stage before it has twice as many, up to 256."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("noise", 0 <= self.noise < 1, "a share in [0, 1)"),
            ("decoder_width", 1 <= self.decoder_width <= 4096, "1 to 4096"),
        ]

    def pair(self, augment: AugmentConfig) -> AugmentConfig:
        """Return the augmentation of the views: crops and flips, with the colours as they are."""
        return plain_colours(augment)


class Autoencoder(OneView):
    """``loss = mean (d(g(f(n(x)))) - x)^2`` over images, channels and pixels; d: decoder, n: sets pixels to 0.

    Source: Hinton and Salakhutdinov, 2006; denoising: Vincent et al., Extracting and Composing Robust Features with
    Denoising Autoencoders, 2008 (masking noise).
    """

    title = "Autoencoder"
    Options = AutoencoderOptions
    # no published recipe for these encoders: a linear bottleneck, and AdamW's usual rate
    recipe: ClassVar[dict[str, Any]] = {
        "head": "linear",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "optimizer": "adamw",
        "lr": 1e-3,
        "lr_scaling": "none",
        "weight_decay": 0.01,
    }
    tune = "--autoencoder.noise, --head-dim (the bottleneck), --lr."
    when = "For comparison only; or where pixels themselves are what matters."

    def extend(self) -> None:
        """Add the decoder."""
        self.decoder = make_decoder(self.width(), self.size, self.options.decoder_width, channels_of(self.encoder))

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h ``[n, F]``, what the decoder draws and the view itself, each ``[n, 3, S, S]``."""
        images = rows_of(views)
        seen = images
        if self.options.noise > 0:
            kept = uniforms(images, self.size**2) >= self.options.noise
            seen = images * kept.unflatten(1, (1, self.size, self.size)).to(images.dtype)
        h = self.encoder(seen)
        drawn = self.decoder(self.head(h))[..., : self.size, : self.size]
        return h, (drawn, images)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error, and the share of the variance of the pixels that it leaves."""
        drawn, images = (widened(each) for each in embeddings)
        loss = F.mse_loss(drawn, images)
        return loss, {"unexplained": loss.detach() / images.var(correction=0).clamp_min(1e-12)}


def plain_colours(augment: AugmentConfig) -> AugmentConfig:
    """Return an augmentation that crops and flips alone."""
    return dataclasses.replace(augment, jitter_p=0.0, gray_p=0.0, blur_p=0.0, solarize_p=0.0)


def make_decoder(inputs: int, size: int, width: int, channels: int = 3) -> nn.Sequential:
    """Return a network from ``[n, inputs]`` to images of at least `size` px: stages that double the side."""
    stages = max(0, (size - 1).bit_length() - 2)  # from 4 px or fewer
    start = -(-size // 2**stages)
    widths = [min(256, width * 2 ** (stages - stage)) for stage in range(stages)] + [width]
    layers: list[nn.Module] = [nn.Linear(inputs, widths[0] * start**2), nn.Unflatten(1, (widths[0], start, start))]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))
