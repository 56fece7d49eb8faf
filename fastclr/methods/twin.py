"""The momentum twin: a copy of networks that follows them slowly and never gets a gradient."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from fastclr.methods.base import KeptEqual


class MomentumTwin(KeptEqual):
    """A copy of `networks`, applied one after another: ``t <- m t + (1 - m) w`` for every parameter after each update.

    It starts as a copy, so that moving it after an update equals moving it before the next forward. Buffers are its
    own: in training mode it normalises by the statistics of the batches that it sees.

    Args:
        networks: modules, each of which takes what the one before returns.
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.Sequential(*(copy.deepcopy(network) for network in networks)).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the last network returns, without gradient."""
        with torch.no_grad():
            output: Tensor = self.networks(images)
        return output

    @torch.no_grad()
    def follow(self, *networks: nn.Module, momentum: float) -> None:
        """Move towards the networks that it is a copy of."""
        own: list[Tensor] = list(self.networks.parameters())
        theirs = [parameter.detach() for network in networks for parameter in network.parameters()]
        torch._foreach_lerp_(own, theirs, 1.0 - momentum)


def ramped_momentum(start: float, step: int, total: int) -> float:
    """Return m of a step: ``1 - (1 - start) (cos(pi step / total) + 1) / 2``, from `start` to 1.

    Args:
        start: m of step 0.
        step: index of the step, from 0.
        total: number of steps of the whole training.

    Source: Grill et al., Bootstrap Your Own Latent, 2020, section 3.2.
    """
    return 1.0 - (1.0 - start) * (math.cos(math.pi * step / total) + 1.0) / 2.0
