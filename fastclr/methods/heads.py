"""Projection heads: the one place that knows what a layer of a head is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    pass


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


def head_depth(head: nn.Module) -> int:
    """Return the number of layers of a projection head."""
    return sum(isinstance(module, nn.Linear) for module in head) if isinstance(head, nn.Sequential) else 0


def first_layers(head: nn.Module, count: int) -> nn.Sequential:
    """Return the first `count` layers of a projection head, each with the batch norm and ReLU after it.

    Raises:
        ValueError: the head has fewer layers.
    """
    depth = head_depth(head)
    if not 0 <= count <= depth:
        raise ValueError(f"from_layer must be from 0 (the encoder's features) to {depth} (the head's end), got {count}")
    modules = list(head) if isinstance(head, nn.Sequential) else []
    starts = [index for index, module in enumerate(modules) if isinstance(module, nn.Linear)]
    return nn.Sequential(*modules[: [*starts, len(modules)][count]])
