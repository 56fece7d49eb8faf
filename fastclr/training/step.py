"""One training step (views, forward, loss, update), and the totals that steps accumulate for the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.data import Batch
from fastclr.losses import cached_step
from fastclr.methods import Views
from fastclr.training.build import Training, seed_step
from fastclr.training.metric_names import full_names
from fastclr.training.nonfinite import explain_nonfinite
from fastclr.training.optim import peak_lr
from fastclr.training.run import Run

# sums that are not logged as means over the steps
COUNTS = ("loss", "steps", "finite", "online_right", "online_labelled")


def no_mark(stage: str) -> None:
    """Ignore the end of a stage."""


def train_step(training: Training, batch: Batch, mark: Callable[[str], None] = no_mark) -> None:
    """Take one step.

    Args:
        training: the run; its position advances by one step.
        batch: images, ids and labels.
        mark: called with the name of each stage as it ends, for profiling.
    """
    config, world, method, probe = training.config, training.world, training.method, training.probe
    seed_step(config.seed, training.step, world.rank)
    views = training.augment(batch.images, batch.ids, training.epoch)
    mark("augmentation")
    views = placed(views, training.device)
    texts = texts_of(training, batch)
    mark("copy to device")
    training.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(training.device.type, torch.bfloat16, enabled=training.autocast):
        if config.micro_batch is not None:
            parts = (*views, *texts)
            embed = partial(embed_views, len(views))
            loss, sums = cached_step(training.forward, parts, training.loss_of(batch), config.micro_batch, embed=embed)
        else:
            h, embeddings = training.forward(views, *texts)
    if config.micro_batch is None:
        mark("head forward")
        loss, sums = training.loss_of(batch)(*embeddings)
        mark("loss forward")
        loss.backward()
    mark("encoder backward")
    for parameter in method.criterion.parameters():  # DistributedDataParallel ignores these
        if parameter.grad is not None:
            parameter.grad.copy_(world.sum(parameter.grad) / world.size)
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(method.network_parameters(), config.clip_grad)
    training.schedule.step_update(training.step)
    method.before_step(training.step, training.total_steps)
    training.optimizer.step()
    method.after_step(training.step, training.total_steps)
    # summed on the device, so that the host waits only when a log record is due
    value = loss.detach()
    finite = (value + training.totals.get("loss")).isfinite()  # cumulative: the count stops where the loss first broke
    sums = {"loss": value, **sums, "steps": torch.ones_like(value), "finite": finite}
    if probe is not None:
        _, accuracy, labelled = probe.step(h, batch.labels.to(training.device).repeat(len(h) // len(batch.labels)))
        sums |= {"online_right": accuracy * labelled, "online_labelled": labelled}
    training.totals.add(sums)
    training.step += 1
    training.step_in_epoch += 1
    mark("optimiser")


def embed_views(count: int, forward: nn.Module, parts: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Return the embeddings of a micro-batch, for cached gradients: of `count` views, and the texts behind them."""
    embeddings: Sequence[Tensor] = forward(parts[:count], *parts[count:])[1]
    return embeddings


def placed(views: Tensor | Sequence[Tensor], device: torch.device) -> Views:
    """Return views on a device: one tensor ``[V, N, ...]``, or one for each view where they differ in size."""
    if isinstance(views, Tensor):
        return views.to(device)
    return [view for alike in views for view in alike.to(device)]


def texts_of(training: Training, batch: Batch) -> tuple[Tensor, ...]:
    """Return what the method's forward takes beside the views: the token ids of a batch, or nothing.

    Raises:
        ValueError: the method takes texts, and the batch has none.
    """
    if not training.method.uses_texts:
        return ()
    if batch.texts is None:
        raise ValueError(f"{training.method.title} needs captions of all images, and the batch has none")
    return (batch.texts.to(training.device),)


def read_totals(training: Training) -> dict[str, Any]:
    """Return the means over all processes since the last record, under the names of the log, and reset the totals.

    Raises:
        FloatingPointError: the loss is not finite; raised on every process.
    """
    sums = {name: float(value) for name, value in training.totals.sum_over(training.world).items()}
    training.totals.reset()
    loss, steps = sums["loss"], sums["steps"]
    if not math.isfinite(loss):
        step = training.step - int((steps - sums["finite"]) / training.world.size) + 1
        raise FloatingPointError(
            f"the loss became {loss} at step {step} (epoch {training.epoch + 1}); the last checkpoint is kept. "
            f"Try a lower lr (now {peak_lr(training.config):g}), a warm-up, or --amp off"
        )
    labelled = sums.get("online_labelled", 0.0)
    record = {
        "kind": "train",
        "epoch": training.epoch + 1,
        "step": training.step,
        "loss": loss / steps,
        **{name: value / steps for name, value in sums.items() if name not in COUNTS},
        **training.scalars(),
        "lr": training.schedule.rate,
        **({"online_probe_accuracy": sums["online_right"] / labelled} if labelled else {}),
    }
    return full_names(record)


def explain_step(training: Training, batch: Batch, run: Run) -> str:
    """Repeat the step on `batch` to explain a non-finite loss: its first broken stage and the likely cause."""
    method = training.method
    views = placed(training.augment(batch.images, batch.ids, training.epoch), training.device)
    with torch.no_grad(), torch.autocast(training.device.type, torch.bfloat16, enabled=training.autocast):
        h, embeddings = method(views, *texts_of(training, batch))
    networks = method.network_parameters()
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    stages: dict[str, Any] = {
        "parameters": [(names[id(p)], p) for p in networks],
        "views": views if isinstance(views, Tensor) else [(f"view {i}", view) for i, view in enumerate(views)],
        "buffers": method.named_buffers(),
        "h": h,
        "z": [(f"embedding {index}", embedding) for index, embedding in enumerate(embeddings)],
        "loss": training.loss_of(batch)(*embeddings)[0],
        "gradients": [(names[id(p)], p.grad) for p in networks if p.grad is not None],
    }
    return explain_nonfinite(stages, run.metrics.read())
