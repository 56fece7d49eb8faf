"""A few steps of SimCLR on several gloo ranks: direct and cached, with a fixed and a learnable temperature."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
from tiny_run import TINY
from torch import distributed

from fastclr.methods import SimCLROptions
from fastclr.parallel import open_world
from fastclr.training.build import build
from fastclr.training.step import train_step

CASES = list(itertools.product((None, 3), (False, True)))  # micro-batch, learnable temperature
STEPS = 3


def train(images: str, micro_batch: int | None, learnable: bool) -> dict[str, torch.Tensor]:
    """Return the state of the method after a few steps in float64, without batch norm, which sees micro-batches."""
    config = dataclasses.replace(
        TINY,
        data=images,
        encoder="test_convnext",
        width=1.0,
        head_bn=False,
        batch_size=16,
        micro_batch=micro_batch,
        options=SimCLROptions(learnable_temperature=learnable),
        clip_grad=0.5,
        lr=0.5,
    )
    with open_world("cpu") as world:
        torch.set_default_dtype(torch.float64)
        training = build(config, world)
        torch.set_default_dtype(torch.float32)
        augment: Any = training.augment
        training.augment = lambda *inputs: augment(*inputs).double()  # type: ignore[assignment]
        training.method.train()
        for batch in itertools.islice(training.loader.epoch(0), STEPS):
            train_step(training, batch)
        return training.method.state_dict()


def run_rank(rank: int, ranks: int, folder: str, images: str) -> None:
    """Train every case on this rank, and save the final state."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    found = [train(images, *case) for case in CASES]
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()
