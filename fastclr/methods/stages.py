"""Features of every stage of an encoder, averaged over positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.methods.own_encoder import channels_of

PARTS = ("layer", "stage", "block")  # in timm's names of what is no stem


class StageFeatures(nn.Module):
    """An encoder cut off after a stage, from images to features: what the stage returns, averaged over positions.

    Args:
        encoder: has timm's ``forward_intermediates``.
        index: of the stage among what that returns.
    """

    def __init__(self, encoder: nn.Module, index: int) -> None:
        super().__init__()
        self.encoder, self.index = encoder, index

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, channels of the stage]``."""
        return intermediates(self.encoder, images)[self.index].flatten(2).mean(dim=2)


def stage_module(encoder: nn.Module, layer: str, size: int) -> nn.Module:
    """Return the module from images to the features of a stage.

    Args:
        encoder: from images ``[N, 3, size, size]``.
        layer: ``stage1`` and so on.
        size: side of the images in pixels.

    Raises:
        ValueError: the encoder has no such stage, or tells of none.
    """
    indices = stage_indices(encoder, size)
    names = {f"stage{number}": index for number, index in enumerate(indices, start=1)}
    if layer not in names:
        raise ValueError(f"this encoder has the stages stage1 to stage{len(names)}, got {layer!r}")
    return StageFeatures(encoder, names[layer])


def intermediates(encoder: Any, images: Tensor) -> list[Tensor]:
    """Return the maps ``[N, C, h, w]`` that an encoder has between its stages; of a ViT the patches' without others."""
    found: list[Tensor] = list(encoder.forward_intermediates(images, intermediates_only=True))
    return found


def stage_indices(encoder: nn.Module, size: int) -> list[int]:
    """Return where the stages lie among what ``forward_intermediates`` returns: all but a stem.

    A stage is that of a ResNet or another convolutional network, and every block of a ViT.

    Args:
        encoder: from images ``[N, 3, size, size]``.
        size: side of the images in pixels.

    Raises:
        ValueError: the encoder has no such method.
    """
    if not callable(getattr(encoder, "forward_intermediates", None)):
        raise ValueError(
            f"stages are found by timm's forward_intermediates, which this {type(encoder).__name__} does not have: add "
            "a method forward_intermediates(images, intermediates_only=True) that returns the maps [N, C, h, w] of "
            "every stage, or take h"
        )
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        weight = next(encoder.parameters())
        images = torch.zeros(1, channels_of(encoder), size, size, dtype=weight.dtype, device=weight.device)
        count = len(intermediates(encoder, images))
    encoder.train(was_training)
    info: Any = getattr(encoder, "feature_info", None)
    if not isinstance(info, list) or len(info) != count or not all(isinstance(each, Mapping) for each in info):
        return list(range(count))  # an encoder of one's own
    return [index for index, each in enumerate(info) if any(part in str(each.get("module")) for part in PARTS)]
