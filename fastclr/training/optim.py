"""Optimisers and schedules: LARS, SGD, AdamW, learning rate scaling, warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from fastclr.methods import Group
from fastclr.methods.options import Check
from fastclr.training.lars import LARS
from fastclr.training.phases import Extension, ExtensionKind, Phases

FUSED_ON = {"cpu", "cuda"}  # devices with fused optimiser kernels

OptimizerKind = Literal["lars", "sgd", "adamw"]
LrScaling = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Length of training, batch sizes, optimiser and learning rate schedule."""

    epochs: int = 100
    """Passes over the data."""
    extensions: tuple[Extension, ...] = ()
    """How the run was made longer, see `fastclr.training.extend`; no option of the command line."""
    batch_size: int = 256
    """Images per step over all processes; each yields two views."""
    micro_batch: int | None = None
    """Images per forward pass: computes the whole batch's gradient in a small batch's memory. Default: all at once."""
    optimizer: OptimizerKind = "sgd"
    """`sgd` decays every parameter; `adamw` exempts biases and norms; `lars` follows the paper."""
    lr: float = 0.06
    """Base learning rate; lr_scaling turns it into the peak."""
    lr_scaling: LrScaling = "none"
    """The peak is lr (`none`), lr B / 256 (`linear`) or lr sqrt(B) (`sqrt`), where B is the global batch_size."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    nesterov: bool = False
    """Nesterov momentum for LARS and SGD."""
    lars_eta: float = 0.001
    """Trust coefficient of LARS."""
    weight_decay: float = 5e-4
    """Weight decay."""
    weight_decay_end: float | None = None
    """Weight decay at the end of training, towards which it goes along a cosine. Default: it stays as it is."""
    warmup_epochs: float = 0.0
    """Linear warm-up from zero, in epochs, followed by a cosine to zero; both are updated every step."""
    warmup_share: float | None = None
    """Warm-up as a fraction of all epochs, instead of warmup_epochs."""
    clip_grad: float | None = None
    """Clip the gradient's norm to this value."""

    @property
    def planned(self) -> list[int]:
        """The epochs that were planned at first, and at each extension."""
        return [*(epochs for epochs, _, _ in self.extensions), self.epochs]

    def planned_at(self, step: int) -> int:
        """Return the epochs that are planned at a step."""
        return next((epochs for epochs, start, _ in self.extensions if step < start), self.epochs)

    def goes_on(self, stored: OptimizerOptions) -> bool:
        """Tell whether this is the same length of training as a stored one, or an extension of it."""
        count = len(stored.extensions)
        return self.extensions[:count] == stored.extensions and self.planned[: count + 1] == stored.planned

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        starts = [start for _, start, _ in self.extensions]
        kinds = {kind for _, _, kind in self.extensions} <= set(get_args(ExtensionKind))
        ordered = min(starts, default=0) >= 0 and starts == sorted(starts) and min(self.planned) >= 1
        share, first = self.warmup_share, self.planned[0]
        alone = share is None or not self.warmup_epochs
        may_look_ahead = self.optimizer != "adamw" and self.momentum > 0
        return [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("extensions", kinds and ordered, "as fastclr wrote them"),
            ("batch_size", self.batch_size >= 2, "at least 2: the loss contrasts images"),
            ("micro_batch", self.micro_batch is None or self.micro_batch >= 1, "a positive number or None"),
            ("optimizer", self.optimizer in get_args(OptimizerKind), f"one of {get_args(OptimizerKind)}"),
            ("lr", 0 < self.lr < float("inf"), "a positive number"),
            ("lr_scaling", self.lr_scaling in get_args(LrScaling), f"one of {get_args(LrScaling)}"),
            ("momentum", 0 <= self.momentum < 1, "a number in [0, 1)"),
            ("nesterov", not self.nesterov or may_look_ahead, "False for adamw and without momentum"),
            ("lars_eta", 0 < self.lars_eta < float("inf"), "a positive number"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0"),
            ("warmup_epochs", 0 <= self.warmup_epochs < first, f"at least 0 and below epochs={first}"),
            ("warmup_share", share is None or 0 <= share < 1, "a number in [0, 1) or None"),
            ("warmup_share", alone, f"None beside warmup_epochs={self.warmup_epochs}"),
            ("weight_decay_end", self.weight_decay_end is None or self.weight_decay_end >= 0, "at least 0 or None"),
            ("clip_grad", self.clip_grad is None or self.clip_grad > 0, "a positive number or None"),
        ]


def peak_lr(config: OptimizerOptions) -> float:
    """Return the learning rate at the end of the warm-up, for the global batch B of `config`.

    ``none``: lr;  ``linear``: lr B / 256;  ``sqrt``: lr sqrt(B)   (google-research/simclr, ``model_util.py``).
    """
    factors = {"none": 1.0, "linear": config.batch_size / 256, "sqrt": math.sqrt(config.batch_size)}
    return config.lr * factors[config.lr_scaling]


def build_optimizer(config: OptimizerOptions, groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Build LARS, SGD or AdamW over `groups`, each at `peak_lr` times its own rate."""
    lr = peak_lr(config)
    described: list[dict[str, Any]] = []
    for group in groups:
        decay = config.weight_decay if group.decay else 0.0
        described.append({"params": group.parameters, "lr": group.rate * lr, "weight_decay": decay})
    if config.optimizer == "lars":
        adapted = [{**about, "adapt": group.adapt} for about, group in zip(described, groups, strict=True)]
        return LARS(adapted, lr, momentum=config.momentum, eta=config.lars_eta, nesterov=config.nesterov)
    fused = True if all(p.device.type in FUSED_ON for group in groups for p in group.parameters) else None
    if config.optimizer == "adamw":
        return torch.optim.AdamW(described, lr=lr, fused=fused)
    return torch.optim.SGD(described, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


def warmup_steps(config: OptimizerOptions, steps_per_epoch: int) -> int:
    """Return the number of warm-up steps, leaving at least one step after them."""
    share = config.warmup_share
    epochs = config.warmup_epochs if share is None else share * config.planned[0]
    return min(round(epochs * steps_per_epoch), config.planned[0] * steps_per_epoch - 1)


class Schedule:
    """The rates of all groups, see `Phases`, but of the constant ones, and the weight decay.

    From d to d' in T planned steps the decay of step s is ``d' + (d - d') (1 + cos(pi s / T)) / 2``.

    Args:
        config: length of training, warm-up and extensions.
        optimizer: its groups, each at its peak rate.
        steps_per_epoch: steps per epoch.
        groups: what the optimiser's groups were made from.
    """

    def __init__(
        self,
        config: OptimizerOptions,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        groups: Sequence[Group] = (),
    ) -> None:
        self.optimizer = optimizer
        self.shown = next((i for i, group in enumerate(groups) if group.rate == 1.0 and not group.constant), 0)
        self.constant = {i: optimizer.param_groups[i]["lr"] for i, group in enumerate(groups) if group.constant}
        self.decay, self.decay_end, self.steps_per_epoch = config.weight_decay, config.weight_decay_end, steps_per_epoch
        self.decayed = [i for i, group in enumerate(groups) if group.decay]
        self.planned_at = config.planned_at
        first, *later = (epochs * steps_per_epoch for epochs in config.planned)
        extensions = [(start, end, kind) for (_, start, kind), end in zip(config.extensions, later, strict=True)]
        self.phases = Phases(optimizer, warmup_steps(config, steps_per_epoch), first, extensions)

    @property
    def rate(self) -> float:
        """The rate now, of a group that has it whole: other groups may have a part of it, or a constant one."""
        return float(self.optimizer.param_groups[self.shown]["lr"])

    def step_update(self, step: int) -> None:
        """Set the rates of the step with this index."""
        self.phases.step_update(step)
        if self.decay_end is not None:
            share = step / (self.planned_at(step) * self.steps_per_epoch)
            decay = self.decay_end + (self.decay - self.decay_end) * (1.0 + math.cos(math.pi * share)) / 2.0
            for index in self.decayed:
                self.optimizer.param_groups[index]["weight_decay"] = decay
        for index, rate in self.constant.items():
            self.optimizer.param_groups[index]["lr"] = rate
