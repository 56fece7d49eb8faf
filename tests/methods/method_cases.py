"""Every method on networks of a few parameters: how tests build one, and take its steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from tiny_run import TINY
from torch import nn

from fastclr.methods import (
    METHODS,
    AutoencoderOptions,
    CPCOptions,
    DINOOptions,
    Facts,
    GANOptions,
    JigsawOptions,
    LeJEPAOptions,
    MethodOptions,
    MoCoOptions,
    MoCoV1Options,
    PIRLOptions,
    SimCLROptions,
    ViewPlan,
)
from fastclr.methods.heads import build_head
from fastclr.methods.one_branch import OneBranch
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method

SMALL: dict[str, Any] = {"head_hidden": 16, "head_dim": 8}
# the losses of SimCLR, and what has another graph than the method's default
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name, method in METHODS.items() if issubclass(method, OneBranch)},
    "simclr-dcl": ("simclr", {"options": SimCLROptions(loss="dcl", learnable_temperature=True)}),
    "simclr-nt-logistic": ("simclr", {"options": SimCLROptions(loss="nt-logistic")}),
    "simclr-margin": ("simclr", {"options": SimCLROptions(loss="margin", semi_hard=True)}),
    "simclr-dots": ("simclr", {"options": SimCLROptions(normalize=False, temperature=2.0)}),
    "moco-symmetric": ("moco-v2", {"options": MoCoOptions(queue=64, symmetric=True)}),
    "pirl-info-nce": ("pirl", {"options": PIRLOptions(loss="info-nce", negatives=32, grid=2, weight=0.25)}),
    "dino-large": ("dino", {"options": DINOOptions(prototypes=8, local_views=0)}),
    "lejepa-views": ("lejepa", {"options": LeJEPAOptions(views=3, slices=20)}),
    "denoising": ("autoencoder", {"options": AutoencoderOptions(noise=0.25, decoder_width=2)}),
    "barlow-lars": ("barlow", {"optimizer": "lars"}),
}
OPTIONS: dict[str, MethodOptions] = {
    "moco-v1": MoCoV1Options(queue=64),
    "moco-v2": MoCoOptions(queue=64),
    "cpc": CPCOptions(grid=5, steps=2, context=8, depth=1, temperature=1.0),
    "pirl": PIRLOptions(negatives=32, grid=2),
    "dino": DINOOptions(prototypes=8, local_views=2),
    "jigsaw": JigsawOptions(permutations=20),
    "autoencoder": AutoencoderOptions(decoder_width=2),
    "gan": GANOptions(generator_width=2, discriminator_width=2, hidden=8),
}


def config_of(variant: str, **changes: Any) -> PretrainConfig:
    """Return a run of the method with its recipe, and small heads; the queue holds 64 keys."""
    name, special = VARIANTS[variant]
    base = with_method(TINY, name)
    options = {"options": OPTIONS[name]} if name in OPTIONS else {}
    return dataclasses.replace(base, **{**SMALL, **options, **special, **changes})


def tiny_encoder(bn: bool) -> nn.Module:
    """Return an encoder of one convolution, from images to 8 features.

    With batch norm it has no biases: their gradient is rounding, of which AdamW makes steps of full size.
    """
    norm = nn.BatchNorm2d(8) if bn else nn.Identity()
    pool = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, bias=not bn), norm, nn.ReLU(), *pool, nn.Linear(32, 8, bias=not bn))


def make_tiny(config: PretrainConfig, facts: Facts) -> OneBranch:
    """Make the method of a run around an encoder of one's own; it has batch norm if the head has."""
    made = METHODS[config.method]
    assert issubclass(made, OneBranch)
    width, hidden = config.head_dim, config.head_hidden or 8
    encoder = tiny_encoder(config.head_bn)
    end = config.head_bn, config.head_last_bn, config.head_activation
    head = build_head(config.head, 8, width, config.head_layers, hidden, *end)
    options: Any = config.options
    return made(
        encoder,
        head,
        ViewPlan(options.pair(config.augment), options.view_count),
        options,
        per_view=config.bn_per_view,
        gathers=facts.world_size > 1,
        synced=config.sync_bn,
        facts=facts,
    )
