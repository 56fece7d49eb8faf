"""One step: views, one forward through the model, the loss, one update; and what the steps add up to."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.data import Batch
from fastclr.losses import NTXentStats, nt_xent
from fastclr.losses.cached_step import cached_step
from fastclr.training.build import Training, seed_step
from fastclr.training.nonfinite import explain_nonfinite
from fastclr.training.optim import peak_lr
from fastclr.training.run import Run


def train_step(training: Training, batch: Batch) -> None:
    """One step: two views, one forward through the model, NT-Xent, one update."""
    config, world, probe = training.config, training.world, training.probe
    seed_step(config.seed, training.step, world.rank)
    views = training.augment(batch.images, batch.ids, training.epoch).to(training.device)
    training.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(training.device.type, torch.bfloat16, enabled=training.autocast):
        if config.micro_batch is not None:
            loss, stats = cached_step(training.project, views, partial(contrast, training), config.micro_batch)
        else:
            # both views in one pass: batch norm sees them together
            h, z = training.project(views.flatten(0, 1), with_features=True)
    if config.micro_batch is None:
        loss, stats = contrast(training, *z.chunk(2))
        loss.backward()
    for parameter in training.loss.parameters():  # the temperature is not in the model that averages its gradients
        if parameter.grad is not None:
            parameter.grad.copy_(world.sum(parameter.grad) / world.size)
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), config.clip_grad)
    training.schedule.step_update(training.step)
    training.optimizer.step()
    # summed on the device, so that only a log record waits for it
    value = loss.detach()
    finite = (value + training.totals[0]).isfinite()  # so far: where this stops to count, the loss broke
    sums = [value, stats.accuracy.mean(), stats.entropy.mean(), torch.ones_like(value), finite]
    if probe is not None:
        _, accuracy, labelled = probe.step(h, batch.labels.to(training.device).repeat(2))
        sums += [accuracy * labelled, labelled]
    training.totals[: len(sums)] += torch.stack([s.double() for s in sums])


def contrast(training: Training, z0: Tensor, z1: Tensor) -> tuple[Tensor, NTXentStats]:
    """Return NT-Xent of the global batch, for the rows of this process, and its statistics."""
    return nt_xent(z0, z1, training.loss.temperature, return_stats=True, group=training.world.group)


def read_totals(training: Training) -> dict[str, Any]:
    """Return the means over all processes since the last record and reset them.

    Raises:
        FloatingPointError: the loss is not finite, on every process.
    """
    loss, accuracy, entropy, steps, finite, right, labelled = training.world.sum(training.totals).tolist()
    training.totals.zero_()
    if not math.isfinite(loss):
        step = training.step - int((steps - finite) / training.world.size) + 1
        raise FloatingPointError(
            f"the loss became {loss} at step {step} (epoch {training.epoch + 1}); the last checkpoint is kept. "
            f"Try a lower lr (now {peak_lr(training.config):g}), a warm-up, or --amp off"
        )
    online = {"online_probe_accuracy": right / labelled} if labelled else {}
    return {
        "kind": "train",
        "epoch": training.epoch + 1,
        "step": training.step,
        "loss": loss / steps,
        "contrastive_accuracy": accuracy / steps,
        "contrastive_entropy": entropy / steps,
        "temperature": float(torch.as_tensor(training.loss.temperature).detach()),
        "lr": training.optimizer.param_groups[0]["lr"],
        **online,
    }


def explain_step(training: Training, batch: Batch, run: Run) -> str:
    """Return what the step on `batch` shows about a loss that is not finite: the first stage with a NaN, its cause."""
    model = training.model
    views = training.augment(batch.images, batch.ids, training.epoch).to(training.device)
    with torch.no_grad(), torch.autocast(training.device.type, torch.bfloat16, enabled=training.autocast):
        h = model.encoder(views.flatten(0, 1))
        z = model.head(h)
    z0, z1 = z.chunk(2)
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    stages: dict[str, Any] = {"parameters": model.named_parameters(), "views": views, "buffers": model.named_buffers()}
    stages |= {"h": h, "z": z, "loss": contrast(training, z0, z1)[0], "gradients": gradients}
    return explain_nonfinite(stages, run.metrics.read())
