"""Linear classifiers on features, and the protocol `precomputed`: Adam on features that were computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.order import permutation
from fastclr.device import full_float32
from fastclr.evaluate.features import check_labelled

BLOCK = 16384  # rows of features that are worked on at a time


@dataclass(frozen=True)
class LinearClassifier:
    """Logits W (x - mean) / std + b.

    Args:
        weight: float32 ``[C, F]``.
        bias: float32 ``[C]``.
        mean: float32 ``[F]``, of the features that it was fitted to, or zeros.
        std: float32 ``[F]``, of the features that it was fitted to, or ones.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    @staticmethod
    def of(linear: nn.Linear) -> LinearClassifier:
        """Return what a linear layer computes, detached."""
        weight, bias = linear.weight.detach(), linear.bias.detach()
        return LinearClassifier(weight, bias, torch.zeros_like(weight[0]), torch.ones_like(weight[0]))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits float32 ``[N, C]`` of features ``[N, F]``, on the device of the classifier."""
        with full_float32(), torch.no_grad():
            parts = [
                F.linear((rows.to(self.weight) - self.mean) / self.std, self.weight, self.bias)
                for rows in features.split(BLOCK)
            ]
            return torch.cat(parts)


def zero_linear(features: int, classes: int, device: torch.device | str | None = None) -> nn.Linear:
    """Return a linear layer that starts at zero, as the paper's code does: no seed decides where a probe starts."""
    linear = nn.Linear(features, classes, device=device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def class_count(labels: Tensor) -> int:
    """Return the number of columns that labels from 0 on need.

    Raises:
        ValueError: there are fewer than two classes among them.
    """
    found = labels.unique().numel()
    if found < 2:
        raise ValueError(f"a linear probe needs at least 2 classes, got {found}")
    return int(labels.max()) + 1


def check_schedule(epochs: int, batch_size: int, lr: float, weight_decay: float) -> None:
    """Raise a ValueError unless the settings of a training make sense."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be a positive number, got {lr}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be a number of at least 0, got {weight_decay}")


def fit_adam(
    features: Tensor,
    labels: Tensor,
    *,
    epochs: int = 500,
    batch_size: int = 1000,
    lr: float = 0.01,
    weight_decay: float = 5e-6,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> LinearClassifier:
    """Fit a linear classifier to features as they are, by Adam with a cosine from `lr` to zero, step by step.

    Starts at zero. The order of an epoch is a function of (seed, epoch). Returns the last epoch's weights; nothing is
    selected.

    Args:
        features: float ``[N, F]`` of training images.
        labels: int64 ``[N]``.
        epochs: passes over the features.
        batch_size: rows per step.
        lr: peak learning rate.
        weight_decay: times the weights, added to the gradient.
        seed: of the order.
        device: computes. Default: that of the features.

    Raises:
        ValueError: fewer than two classes, or an argument is out of range.
        FloatingPointError: the weights became NaN or infinite.

    Source: settings of the evaluation in htdt/self-supervised and dkobak/simclr-cifar10.
    """
    check_labelled("features", features, labels)
    check_schedule(epochs, batch_size, lr, weight_decay)
    where = features.device if device is None else torch.device(device)
    linear = zero_linear(features.shape[1], class_count(labels), where)
    optimizer = torch.optim.Adam(linear.parameters(), lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(features) // batch_size))
    with torch.enable_grad():
        for epoch in range(epochs):
            for rows in permutation(len(features), seed, epoch).to(features.device).split(batch_size):
                logits = linear(features[rows].to(where, torch.float32))
                F.cross_entropy(logits, labels[rows].to(where)).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
    return finite(LinearClassifier.of(linear))


def finite(classifier: LinearClassifier) -> LinearClassifier:
    """Return `classifier`.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """
    if not bool(classifier.weight.isfinite().all() & classifier.bias.isfinite().all()):
        raise FloatingPointError("the linear probe diverged: its weights are NaN or infinite; try a lower lr")
    return classifier
