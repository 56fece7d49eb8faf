"""A few steps of the methods of images and texts on several gloo ranks, direct and with cached gradients."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from text_cases import TEXT_METHODS, Letters, coarse_shapes, make_tiny_pair, text_config

from fastclr.parallel import open_world
from fastclr.training.build import build
from fastclr.training.step import train_step

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TEXT_METHODS},
    **{f"{name}-micro": (name, {"micro_batch": 3}) for name in TEXT_METHODS},
}
STEPS = 4
DATA = coarse_shapes(64)


def train(case: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Return the state of the method after a few steps in float64."""
    name, special = CASES[case]
    config = text_config(name, data="shapes", batch_size=16, clip_grad=0.5, lr=1e-2, options=TEXT_METHODS[name])
    config = dataclasses.replace(config, **{**special, **changes})
    with open_world("cpu") as world:
        torch.set_default_dtype(torch.float64)
        training = build(config, world, DATA, make_tiny_pair, tokenizer=Letters())
        torch.set_default_dtype(torch.float32)
        augment: Any = training.augment
        training.augment = lambda *inputs: augment(*inputs).double()  # type: ignore[assignment]
        training.method.train()
        for batch in itertools.islice(training.loader.epoch(0), STEPS):
            train_step(training, batch)
        return training.method.state_dict()


def train_all() -> dict[str, dict[str, torch.Tensor]]:
    """Train every case on this rank, and return the final states."""
    return {case: train(case) for case in CASES}
