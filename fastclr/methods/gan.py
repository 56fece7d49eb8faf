"""BiGAN: an encoder and a generator that a discriminator cannot tell apart. A baseline."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.data.batch import Batch
from fastclr.device import vector_dtype
from fastclr.methods.autoencoder import make_decoder, plain_colours
from fastclr.methods.base import Views, rows_of
from fastclr.methods.draws import uniforms
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check
from fastclr.methods.own_encoder import channels_of
from fastclr.methods.pretext import OneView, OneViewOptions


@dataclass(frozen=True, kw_only=True)
class GANOptions(OneViewOptions):
    """The options of the GAN."""

    generator_width: int = 32
    """Channels of the generator's last stage; each stage before it has twice as many, up to 256."""
    discriminator_width: int = 32
    """Channels of the discriminator's first stage; each stage after it has twice as many, up to 256."""
    hidden: int = 256
    """Hidden width where the discriminator sees image and code together."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        names = ("generator_width", "discriminator_width", "hidden")
        return [(name, 1 <= getattr(self, name) <= 4096, "1 to 4096") for name in names]

    def pair(self, augment: AugmentConfig) -> AugmentConfig:
        """Return the augmentation of the views: crops and flips, with the colours as they are."""
        return plain_colours(augment)


class GAN(OneView):
    """``loss = L(d(x, sg z), d(sg y, u)) + L(sg_d(y, u), sg_d(x, z))``, ``L(a, b) = mean softplus(-a) + softplus(b)``.

    z = g(f(x)) is the code of an image, y = G(u) the image of a code u, uniform in [-1, 1). The discriminator d learns
    to tell (x, z) from (y, u), from constant pairs; encoder and generator learn to be taken for each other, by a
    discriminator that is constant (sg_d). One backward and one update serve all three.

    Source: Donahue et al., Adversarial Feature Learning, 2017.
    """

    title = "BiGAN"
    Options = GANOptions
    # no published recipe for these encoders: a linear code, and the usual rate of Adam for GANs
    recipe: ClassVar[dict[str, Any]] = {
        "head": "linear",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 64,
        "head_bn": False,
        "optimizer": "adamw",
        "lr": 2e-4,
        "lr_scaling": "none",
        "weight_decay": 1e-4,
    }
    tune = "--lr, --head-dim (the code), --gan.discriminator-width; a discriminator that wins early teaches nothing."
    when = "For comparison only; GANs are made to draw, and hard to train."

    def extend(self) -> None:
        """Add generator and discriminator."""
        code = self.width()
        channels, options = channels_of(self.encoder), self.options
        self.generator = make_decoder(code, self.size, options.generator_width, channels)
        self.discriminator = Discriminator(code, self.size, options.discriminator_width, options.hidden, channels)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h ``[n, F]``, and four logits of each image ``[n, 4]``.

        The discriminator's of (x, z) and (y, u), which teach it; and the same, which teach encoder and generator.
        """
        images = rows_of(views)
        h = self.encoder(images)
        z = self.head(h)
        u = (2 * uniforms(images, z.shape[1]) - 1).to(z.dtype)
        drawn = self.generator(u)[..., : self.size, : self.size]
        judge = self.discriminator
        constant = {name: parameter.detach() for name, parameter in judge.named_parameters()}
        taught = judge(images, z.detach()), judge(drawn.detach(), u)
        teaching = functional_call(judge, constant, (images, z)), functional_call(judge, constant, (drawn, u))
        return h, (torch.cat([*taught, *teaching], dim=1),)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, its part that the discriminator learns from, and the share that it tells right."""
        seen, drawn, seen_again, drawn_again = widened(embeddings[0]).unbind(1)
        judged = (F.softplus(-seen) + F.softplus(drawn)).mean()
        fooled = (F.softplus(-drawn_again) + F.softplus(seen_again)).mean()
        right = torch.cat([seen > 0, drawn < 0]).to(vector_dtype(seen.device)).mean()
        return judged + fooled, {"discriminator_loss": judged.detach(), "task_accuracy": right}


class Discriminator(nn.Module):
    """From images ``[n, C, S, S]`` and codes ``[n, D]`` to logits ``[n, 1]``: positive for an image with its code.

    It has no batch norm, so that each logit is of its own pair alone.
    """

    def __init__(self, code: int, size: int, width: int, hidden: int, channels: int = 3) -> None:
        super().__init__()
        stages = max(1, (size - 1).bit_length() - 2)  # to 4 px or fewer
        widths = [channels] + [min(256, width * 2**stage) for stage in range(stages)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.2)]
        self.image = nn.Sequential(*layers, nn.Flatten())
        side = size
        for _ in range(stages):
            side = (side + 1) // 2
        self.pair = nn.Sequential(
            nn.Linear(widths[-1] * side**2 + code, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.pair(torch.cat([self.image(images), codes.to(images.dtype)], dim=1))
        return logits
