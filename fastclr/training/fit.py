"""The one loop that trains a classifier: on labels, or on whatever else a loss makes of its logits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import SimCLRAugment
from fastclr.data import ImageDataset, ImageIndex, Order, Splits, make_loader
from fastclr.device import resolve_device, set_deterministic, uses_bf16
from fastclr.evaluate import Extracted, evaluation_batches, extract_features
from fastclr.methods import parameter_groups
from fastclr.training.build import augment_device, seed_step
from fastclr.training.config import PretrainConfig
from fastclr.training.optim import build_optimizer, build_schedule, peak_lr
from fastclr.training.stopping import Interrupted, StopRequest

# logits [N, C] in float32 with gradient, the images [N, 3, S, S] they are of, labels [N] -> loss
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, view: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits ``[N, C]`` and labels ``[N]``; the images do not matter."""
    return F.cross_entropy(logits, labels)


def fit(
    model: nn.Module,
    images: ImageDataset | ImageIndex,
    config: PretrainConfig,
    objective: Objective = cross_entropy,
    *,
    title: str = "training",
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[float]:
    """Train all of `model` on one random view per image, in this process alone.

    Order and views are functions of (seed, epoch, id), as in the pretraining. Batch norms are in training mode. The
    images that do not fill a batch are left out of an epoch.

    Args:
        model: from images ``[N, 3, S, S]`` to logits ``[N, C]``; stays on the device of `config`, in evaluation mode.
        images: to learn from.
        config: gives seed, views, epochs, batch size, optimiser, schedule, device, precision and memory format; what
            concerns the pretraining alone is not used.
        objective: the loss of a batch. Default: cross-entropy, for which every image must have a label.
        title: of the progress bar.
        progress: show a bar where the output is a terminal.
        say: takes a line after every epoch.

    Returns:
        The mean loss of every epoch.

    Raises:
        ValueError: an image has no label, or there are fewer images than a batch.
        FloatingPointError: the loss is not finite.
        Interrupted: SIGTERM or SIGINT came.
    """
    from tqdm import tqdm

    if objective is cross_entropy and not images.labelled:
        raise ValueError(f"all images to train on must have labels, but some of {images.source} have none")
    if config.deterministic:
        set_deterministic()
    device = resolve_device(config.device)
    autocast = uses_bf16(config.amp, device)
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    augment = SimCLRAugment(config.augment, views=1, seed=config.seed, channels_last=config.channels_last)
    loader = make_loader(
        images,
        config.loader,
        Order(config.batch_size, config.seed),
        device=augment_device(device),
        workers=config.workers,
        prefetch=config.prefetch,
    )
    optimizer = build_optimizer(config, parameter_groups(model, config.optimizer))
    schedule = build_schedule(config, optimizer, len(loader))
    losses: list[float] = []
    step, stop, steps = 0, StopRequest(), config.epochs * len(loader)
    silent = not (progress and sys.stderr.isatty())
    model.train()
    shown = tqdm(total=steps, desc=title, leave=False, disable=silent, unit="step")
    with closing(loader), stop.watch(), shown as bar:
        for epoch in range(config.epochs):
            total = torch.zeros((), device=device)
            for batch in loader.epoch(epoch):
                seed_step(config.seed, step, 0)
                view = augment(batch.images, batch.ids, epoch)[0].to(device)
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    logits = model(view)
                loss = objective(logits.float(), view, batch.labels.to(device))
                loss.backward()
                if config.clip_grad is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
                schedule.step_update(step)
                optimizer.step()
                total += loss.detach()
                step += 1
                bar.update()
                if stop.number:
                    raise Interrupted(stop.number, f"stopped in epoch {epoch + 1} of {title}; it starts over next time")
            losses.append(float(total) / len(loader))
            where = f"epoch {epoch + 1}/{config.epochs}"
            bar.set_postfix_str(f"{where}, loss {losses[-1]:.3f}")
            if say is not None:
                say(f"{title}: {where}: loss {losses[-1]:.3f}")
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} in epoch {epoch + 1}: try a lower lr (now {peak_lr(config):g})"
                )
    model.eval()
    return losses


def check_test(data: Splits) -> ImageDataset | ImageIndex:
    """Return the test images whose class is known.

    Raises:
        ValueError: there are none.
    """
    if data.test is None or int(data.test.labels.max()) < 0:
        raise ValueError("there are no labelled test images: give a folder of them with --test-data")
    return data.test if data.test.labelled else data.test.select((data.test.labels >= 0).nonzero().flatten())


def predict(model: nn.Module, images: ImageDataset | ImageIndex, config: PretrainConfig) -> Extracted:
    """Return logits ``[N, C]`` (as features) and labels for the fixed view of every image, with `model` frozen."""
    device = resolve_device(config.device)
    batches = evaluation_batches(images, device, loader=config.loader, workers=config.workers)
    return extract_features(model, batches, config.augment, autocast=uses_bf16(config.amp, device))


def describe(what: str, config: PretrainConfig, images: int) -> str:
    """Return one line on what is about to be trained, on what, and how."""
    steps = config.epochs * (images // config.batch_size)
    return (
        f"{what}: {config.encoder} x{config.width:g}, {images} images, {config.epochs} epochs, {steps} steps of "
        f"{config.batch_size}, {config.optimizer} at {peak_lr(config):g}"
    )
