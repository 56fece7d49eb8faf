"""Optimisers and schedules: LARS, SGD, AdamW, scaled learning rates, warm-up and cosine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from fastclr.training.config import PretrainConfig
from fastclr.training.lars import LARS

FUSED_ON = {"cpu", "cuda"}  # devices where one kernel updates all parameters


def peak_lr(config: PretrainConfig) -> float:
    """Return the learning rate at the end of the warm-up, for the global batch B of `config`.

    ``none``: lr;  ``linear``: lr B / 256;  ``sqrt``: lr sqrt(B)   (google-research/simclr, ``model_util.py``).
    """
    factors = {"none": 1.0, "linear": config.batch_size / 256, "sqrt": math.sqrt(config.batch_size)}
    return config.lr * factors[config.lr_scaling]


def build_optimizer(config: PretrainConfig, model: nn.Module, loss: nn.Module) -> torch.optim.Optimizer:
    """Build LARS, SGD or AdamW over the model and the temperature, at `peak_lr`.

    SGD decays every parameter of the model. AdamW does not decay biases, norms and what the encoder names in
    ``no_weight_decay`` (a ViT's position embedding); LARS neither decays nor adapts these, and does not adapt what the
    model names in ``no_adaptation`` (a classifier). A temperature is never decayed or adapted.
    """
    from timm.optim import param_groups_weight_decay

    lr = peak_lr(config)
    trainable = [p for p in model.parameters() if p.requires_grad]
    special: set[str] = getattr(model, "no_weight_decay", set)()
    plain, adapted = param_groups_weight_decay(model, 1.0, no_weight_decay_list=special)  # one group where this is 0
    adapted["weight_decay"] = config.weight_decay
    everything = {"params": trainable, "weight_decay": config.weight_decay}
    groups = [everything] if config.optimizer == "sgd" else [plain, adapted]
    if temperature := list(loss.parameters()):
        groups.append({"params": temperature, "weight_decay": 0.0})
    if config.optimizer == "lars":
        named: set[str] = getattr(model, "no_adaptation", set)()
        apart = {p for name, p in model.named_parameters() if name in named}
        decayed = [p for p in adapted["params"] if p in apart]
        adapted["params"] = [p for p in adapted["params"] if p not in apart]
        groups = [{**group, "adapt": group is adapted} for group in groups]
        if decayed:
            groups.append({"params": decayed, "weight_decay": config.weight_decay, "adapt": False})
        return LARS(groups, lr, momentum=config.momentum, eta=config.lars_eta, nesterov=config.nesterov)
    fused = True if all(p.device.type in FUSED_ON for p in trainable) else None
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


def warmup_steps(config: PretrainConfig, steps_per_epoch: int) -> int:
    """Return the number of steps of the warm-up; at least one step is left after it."""
    share = config.warmup_share
    epochs = config.warmup_epochs if share is None else share * config.epochs
    return min(round(epochs * steps_per_epoch), config.epochs * steps_per_epoch - 1)


def build_schedule(config: PretrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Build timm's cosine schedule to zero, step by step, after a linear warm-up from zero to the optimiser's lr."""
    from timm.scheduler import CosineLRScheduler

    warmup = warmup_steps(config, steps_per_epoch)
    steps = config.epochs * steps_per_epoch - warmup
    return CosineLRScheduler(optimizer, t_initial=steps, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False)
