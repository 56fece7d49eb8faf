"""A linear probe trained alongside pretraining, without affecting it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from fastclr.evaluate.linear import zero_linear


class OnlineStep(NamedTuple):
    """Scalars on the device: mean loss and accuracy over the labelled images (0 if none), and their number."""

    loss: Tensor
    accuracy: Tensor
    labelled: Tensor


class OnlineProbe(nn.Module):
    """A linear classifier on detached features, with its own optimiser.

    `step` scores a batch with the current weights, reports loss and accuracy, and then updates the weights by Adam.
    The features are detached and the update is the probe's own, so pretraining's optimiser, schedule, clipping and
    loss never see it, and LARS neither adapts nor decays it. Its accuracy tracks a changing encoder on augmented
    training images: use it to monitor a run, not to report results.

    In a distributed run every rank must call `step` in the same order; gradients and scores cover all ranks' labelled
    images, so the probes stay equal. `state_dict` includes the optimiser's state.

    Args:
        features: width F of the features.
        classes: number of classes, at least 2.
        lr: learning rate, constant.

    Raises:
        ValueError: an argument is out of range.

    Source: Chen et al. 2020, appendix B.6; google-research/simclr does the same, with LARS's learning rate.
    """

    def __init__(self, features: int, classes: int, *, lr: float = 3e-3) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if classes < 2:
            raise ValueError(f"a linear probe needs at least 2 classes, got {classes}")
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr must be a positive number, got {lr}")
        self.linear = zero_linear(features, classes)
        self._optimizer = torch.optim.Adam(self.linear.parameters(), lr)

    def forward(self, h: Tensor) -> Tensor:
        """Return logits float32 ``[N, C]`` of features ``[N, F]``; no gradient reaches the features."""
        logits: Tensor = self.linear(h.detach().float())
        return logits

    def step(self, h: Tensor, labels: Tensor) -> OnlineStep:
        """Score a batch, then learn from it, without waiting for the device.

        Args:
            h: float ``[N, F]``, the encoder's features in this step, several views concatenated.
            labels: int64 ``[N]`` on the same device, -1 for images of unknown class, which are ignored.

        Raises:
            ValueError: the shapes do not match.
        """
        if h.dim() != 2 or labels.shape != (len(h),) or labels.dtype != torch.int64:
            raise ValueError(
                f"h and labels must be [N, F] and int64 [N], got {tuple(h.shape)}, {labels.dtype} {tuple(labels.shape)}"
            )
        with torch.enable_grad(), torch.autocast(h.device.type, enabled=False):
            logits = self(h)
            loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
            gradients = torch.autograd.grad(loss, [self.linear.weight, self.linear.bias])
        known = labels >= 0
        hits = (logits.detach().argmax(dim=1) == labels) & known
        numbers = torch.stack([loss.detach(), hits.sum().float(), known.sum().float()])
        everything = torch.cat([numbers, *(gradient.flatten() for gradient in gradients)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(everything)
        means = everything / everything[2].clamp_min(1.0)
        weight = self.linear.weight
        weight.grad = means[3 : 3 + weight.numel()].view_as(weight)
        self.linear.bias.grad = means[3 + weight.numel() :]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return OnlineStep(means[0], means[1], everything[2])

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of features ``[N, F]`` whose class, int64 ``[N]``, is the one with the largest logit.

        Labels below 0, of images of unknown class, and those of classes that the probe does not have count as wrong.
        """
        if not len(labels) or features.dim() != 2 or labels.shape != (len(features),):
            raise ValueError(f"features and labels must be [N, F] and [N], got {features.shape} and {labels.shape}")
        device = self.linear.weight.device
        rows = [self(part.to(device)).argmax(dim=1).cpu() for part in features.split(4096)]
        return float((torch.cat(rows) == labels.cpu()).float().mean())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimiser's state, which `state_dict` stores alongside the weights."""
        return self._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the optimiser's state."""
        self._optimizer.load_state_dict(state)
