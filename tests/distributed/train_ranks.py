"""A short training, of which each rank returns its final state."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tiny_run import TINY

import fastclr.methods.one_branch
from fastclr.methods import SimCLROptions
from fastclr.methods.model import build_model
from fastclr.parallel import open_world
from fastclr.training.build import build
from fastclr.training.evaluation import knn_scores, run_features
from fastclr.training.step import train_step


def train(images: str, optimizer: str, steps: int) -> dict[str, Any]:
    """Take the given number of steps from the start; return weights, log, images and features."""
    config = dataclasses.replace(
        TINY,
        data=images,
        optimizer=optimizer,
        epochs=10,
        options=SimCLROptions(learnable_temperature=True),
        clip_grad=0.5,
        head_bn=True,
    )
    # in float32 the rounding of another order of summation grows fivefold with every step of so small a batch
    fastclr.methods.one_branch.build_model = lambda config: build_model(config).double()
    with open_world("cpu") as world:
        training = build(config, world)
        augment = training.augment
        training.augment = lambda *inputs: augment(*inputs).double()
        training.method.train()
        seen = []
        while training.step < steps:
            for batch in training.loader.epoch(training.epoch):
                seen.append(batch.ids)
                train_step(training, batch)
                if training.step == steps:
                    break
            training.epoch += 1
        sums = training.totals.sum_over(world)
        # the spread is that of the images of a process, and fewer of them spread less
        totals = torch.stack([sums[name] for name in sorted(sums) if name != "embedding_std"])
        found = {"state": training.method.state_dict(), "ids": torch.cat(seen), "totals": totals}
        features = run_features(training.method.float().encoder, training.data, config, world)
        return {**found, **vars(features)}


# each rank has its own statistics of batch norm
APART: dict[str, dict[str, Any]] = {
    "alone": {"sync_bn": False},
    "groups": {"sync_bn_group": 1},
    "micro-batches": {"sync_bn": False, "micro_batch": 4},
}


def evaluate_between(images: str) -> dict[str, Any]:
    """Take two steps and one more, with an evaluation between them or without; return what was there and came out."""
    found: dict[str, Any] = {}
    for case, changes in APART.items():
        config = dataclasses.replace(TINY, data=images, **changes)
        for evaluated in (True, False):
            with open_world("cpu") as world:
                training = build(config, world)
                training.method.train()
                batches = iter(training.loader.epoch(0))
                train_step(training, next(batches))
                train_step(training, next(batches))
                encoder = {name: value.clone() for name, value in training.method.encoder.state_dict().items()}
                if evaluated:
                    found[case] = {"encoder": encoder, "features": knn_scores(training)[0].test}
                train_step(training, next(batches))
                training.loader.close()
                found[case][f"evaluated {evaluated}"] = training.method.state_dict()
    return found
