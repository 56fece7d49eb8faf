"""A few steps of every method on several gloo ranks, and of SimCLR and MoCo with cached gradients."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from method_cases import VARIANTS, config_of, make_tiny

from fastclr.data import make_shapes
from fastclr.methods import MoCoOptions, SimCLROptions
from fastclr.parallel import open_world
from fastclr.training.build import build
from fastclr.training.step import train_step

LEARNABLE = SimCLROptions(learnable_temperature=True)
# the case's method, and what differs from it; micro-batches without batch norm, which would see them
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in VARIANTS},
    "simclr-learnable": ("simclr", {"options": LEARNABLE, "head_bn": False}),
    "simclr-micro": ("simclr", {"micro_batch": 3, "head_bn": False}),
    "simclr-micro-learnable": ("simclr", {"micro_batch": 3, "options": LEARNABLE, "head_bn": False}),
    "dino-micro": ("dino", {"micro_batch": 3, "head_bn": False}),
    "moco-micro": ("moco-v2", {"micro_batch": 3}),
    "moco-exchange": ("moco-v2", {"sync_bn": False, "options": MoCoOptions(queue=64)}),
}
STEPS = 3
DATA = make_shapes(train=64, test=8)


def train(case: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Return the state of the method after a few steps in float64."""
    variant, special = CASES[case]
    config = config_of(variant, data="shapes", batch_size=16, clip_grad=0.5)
    config = dataclasses.replace(config, lr=0.5, lr_scaling="none", **{**special, **changes})
    with open_world("cpu") as world:
        torch.set_default_dtype(torch.float64)
        training = build(config, world, DATA, make_tiny)
        torch.set_default_dtype(torch.float32)
        augment: Any = training.augment
        training.augment = lambda *inputs: doubled(augment(*inputs))  # type: ignore[assignment]
        training.method.train()
        for batch in itertools.islice(training.loader.epoch(0), STEPS):
            train_step(training, batch)
        return training.method.state_dict()


def doubled(views: Any) -> Any:
    """Return views, of one size or of several, in float64."""
    return views.double() if isinstance(views, torch.Tensor) else tuple(each.double() for each in views)


def train_all() -> dict[str, dict[str, torch.Tensor]]:
    """Train every case on this rank, and return the final states."""
    return {case: train(case) for case in CASES}
