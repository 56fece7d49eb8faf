"""Features from the encoder, from a layer of the projection head, or from the head's output."""

from __future__ import annotations

from torch import Tensor, nn

from fastclr.methods.heads import split_layers
from fastclr.methods.model import EncoderHead


class HeadLayer(nn.Module):
    """A model cut off after layer `index` of its projection head, from images to features.

    Args:
        model: encoder and head.
        index: 1 is the first layer of the head.
    """

    def __init__(self, model: EncoderHead, index: int) -> None:
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, width of the layer]``."""
        return self.model.head_features(self.model.encoder(images))[self.index]


def feature_module(model: EncoderHead, layer: str) -> nn.Module:
    """Return the module from images to the features called `layer`.

    Args:
        model: encoder and head.
        layer: ``h`` is the encoder's output, ``z`` the head's before normalisation, ``1``, ``2``, ``3`` the output of
            that layer of the head (including batch norm and ReLU); ``0`` is the same as ``h``.

    Raises:
        ValueError: the head has no such layer.
    """
    count = len(split_layers(model.head))
    names = {"h": 0, "z": count, **{str(index): index for index in range(count + 1)}}
    if layer not in names:
        raise ValueError(
            f"features must be one of {', '.join(names)} (the head has {count} layer(s)), or a stage of the encoder, "
            f"got {layer!r}"
        )
    return model.encoder if names[layer] == 0 else HeadLayer(model, names[layer])
