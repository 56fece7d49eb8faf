"""Projection heads; the only module that knows what a layer of a head is."""

from __future__ import annotations

from torch import nn


def build_head(
    kind: str,
    features: int,
    dim: int,
    layers: int,
    hidden: int,
    bn: bool,
    last_bn: str = "scale",
    activation: str = "relu",
) -> nn.Module:
    """Build a projection or prediction head: none | linear | mlp with ReLU (or GELU) between its layers.

    With `bn`, every layer is a bias-free linear map followed by batch normalisation. That of the last layer has no
    shift (``scale``, as in google-research/simclr, `model_util.projection_head`), neither scale nor shift (``plain``),
    or is missing (``none``); ``bias`` gives the last layer a bias instead.
    """
    if kind == "none":
        return nn.Identity()
    count = 1 if kind == "linear" else layers
    modules: list[nn.Module] = []
    for index in range(count):
        last = index == count - 1
        out = dim if last else hidden
        biased = not bn or (last and last_bn == "bias")
        modules.append(nn.Linear(features if index == 0 else hidden, out, bias=biased))
        if bn and not (last and last_bn in ("none", "bias")):
            norm = nn.BatchNorm1d(out, affine=not (last and last_bn == "plain"))
            if last and last_bn == "scale":
                norm.bias.requires_grad_(False)
            modules.append(norm)
        if not last:
            modules.append(nn.GELU() if activation == "gelu" else nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def split_layers(head: nn.Module) -> list[nn.Sequential]:
    """Return the layers of a projection head: each a linear map with the batch norm and ReLU that follow it.

    A head without layers (``none``) gives an empty list.

    Raises:
        TypeError: the head was not made by `build_head`.
    """
    if isinstance(head, nn.Identity):
        return []
    if not isinstance(head, nn.Sequential):
        raise TypeError(f"the head must be made by build_head, got {type(head).__name__}")
    modules = list(head)
    starts = [index for index, module in enumerate(modules) if isinstance(module, nn.Linear)]
    ends = [*starts[1:], len(modules)]
    return [nn.Sequential(*modules[start:end]) for start, end in zip(starts, ends, strict=True)]


def first_layers(head: nn.Module, count: int) -> nn.Sequential:
    """Return the first `count` layers of a projection head as one flat sequence.

    Raises:
        TypeError: the head was not made by `build_head`.
        ValueError: it has fewer layers.
    """
    layers = split_layers(head)
    if not 0 <= count <= len(layers):
        raise ValueError(
            f"from_layer must be from 0 (the encoder's features) to {len(layers)} (the head's output), got {count}"
        )
    return nn.Sequential(*(module for layer in layers[:count] for module in layer))


def output_width(layers: nn.Module) -> int | None:
    """Return the output width of the last linear layer, or None if there is none."""
    widths = [module.out_features for module in layers.modules() if isinstance(module, nn.Linear)]
    return widths[-1] if widths else None


def projected_width(head: nn.Module, title: str) -> int:
    """Return the output width of a head that the method called `title` needs; a ValueError if it has no layer."""
    if (width := output_width(head)) is None:
        raise ValueError(f"{title} needs a projection head, got one without a linear layer: choose linear or mlp")
    return width
