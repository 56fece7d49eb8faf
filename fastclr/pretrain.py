"""The training loop: build -> for epoch -> for batch -> augment -> encode -> loss -> step -> log -> checkpoint."""

from __future__ import annotations

import dataclasses
import math
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.cached import cached_step
from fastclr.checkpoint import Checkpoint
from fastclr.checkpoint_writer import CheckpointWriter
from fastclr.config import PretrainConfig
from fastclr.data import Batch, Splits
from fastclr.diagnose import explain_nonfinite
from fastclr.environment import record_environment
from fastclr.evaluate import Features, knn_accuracy, labelled_features
from fastclr.losses import NTXentStats, nt_xent
from fastclr.metrics_log import check_hooks, open_hooks
from fastclr.optim import peak_lr
from fastclr.parallel import open_world
from fastclr.report import write_report
from fastclr.run import Run
from fastclr.stopping import Interrupted, StopRequest
from fastclr.training import Training, build, seed_step

SHOWN_SKIPPED = 10


def pretrain_in(folder: Path, config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> Run:
    """Pretrain an encoder with SimCLR and leave everything about it in `folder`.

    Under torchrun, or with an initialised process group, all processes train one model on the same global batch; the
    first one writes, into a folder that all of them can read.

    Args:
        folder: a new folder; with `resume` the folder of a run with the same configuration.
        config: the run.
        resume: go on from the last checkpoint in `folder`, on any number of processes.
        progress: show progress bars where the output is a terminal.

    Raises:
        FileExistsError: `folder` exists and `resume` is off.
        FileNotFoundError: there is nothing to resume.
        ValueError: the configuration, the data or the checkpoint do not fit.
        FloatingPointError: the loss became NaN or infinite; the last checkpoint is kept.
        BlockingIOError: another process is training in `folder`.
        Interrupted: SIGTERM or SIGINT came; the checkpoint of this very step was written.
    """
    check_hooks(tensorboard=config.tensorboard, wandb=config.wandb)
    with open_world(config.device) as world, ExitStack() as files:
        run = Run.open(folder, config) if resume else None
        writer = None
        if run is None:
            Run.check_free(folder)
        elif world.is_main:
            # before the checkpoint is read, so that no other process can write a newer one
            writer = files.enter_context(run.checkpoint_writer())
        checkpoint = run.latest_checkpoint() if run else None
        training = build(config, world)
        if checkpoint is not None:
            restore(training, checkpoint, folder)
        world.barrier()  # all have seen that the folder is free, before one fills it
        if run is None:
            run = (Run.create if world.is_main else Run)(folder, training.config)
            writer = files.enter_context(run.checkpoint_writer()) if world.is_main else None
        elif world.is_main:
            training.config.save(run.folder / "config.json")  # where the images are may have changed
        if world.is_main:
            record_environment(run.folder)
            open_log(training, run, files)
        say(training, run, describe(training))
        report_data(training, run)
        features = train(training, run, writer, progress)
        training.loader.close()
        if world.is_main:
            write_report(run, training.data, features)
        world.barrier()
        return run


def open_log(training: Training, run: Run, files: ExitStack) -> None:
    """Cut the log back to where the training is, and open TensorBoard and Weights & Biases if asked for."""
    config = training.config
    metrics = files.enter_context(closing(run.metrics))
    metrics.keep_up_to(training.step, training.epoch)  # killed before its first checkpoint, a run starts over
    metrics.hooks = open_hooks(
        run.folder,
        tensorboard=config.tensorboard,
        wandb=config.wandb,
        config=dataclasses.asdict(config),
        step=training.step,
    )


def train(training: Training, run: Run, writer: CheckpointWriter | None, progress: bool) -> Features | None:
    """Train from the current position to the last epoch, with evaluations and checkpoints between the epochs.

    Returns:
        The features of the last evaluation, if there was one.
    """
    config, features, stop = training.config, None, StopRequest()
    while training.epoch < config.epochs:
        with stop.watch():
            train_epoch(training, run, writer, stop, progress)
            # before the evaluation, which then is all that a kill during it costs
            if is_checkpoint_due(training):
                write_checkpoint(training, writer)
        if can_evaluate(training.data) and is_evaluation_due(config, training.epoch):
            features = evaluate_epoch(training, run)
        training.epoch, training.step_in_epoch = training.epoch + 1, 0
        if training.epoch == config.epochs:
            write_checkpoint(training, writer)
    return features


def train_epoch(
    training: Training, run: Run, writer: CheckpointWriter | None, stop: StopRequest, progress: bool
) -> None:
    """Train on what is left of the current epoch.

    Raises:
        Interrupted: `stop` was asked for on any rank; the position is saved.
        FloatingPointError: the loss is not finite.
    """
    config, loader, world = training.config, training.loader, training.world
    training.model.train()
    title = f"epoch {training.epoch + 1}/{config.epochs}"
    bar = run.bar(len(loader), training.step_in_epoch, title, progress and world.is_main)
    text, rate, clock = "", 0.0, training.clock
    logged = training.step, clock.total
    clock.start()
    for batch in loader.epoch(training.epoch, start_step=training.step_in_epoch):
        train_step(training, batch)
        training.step_in_epoch += 1
        training.step += 1
        bar.update()
        if not clock.started:
            clock.lap()
        at_end = training.step_in_epoch == len(loader)
        if training.step % config.log_every == 0 or at_end:
            try:
                record = read_totals(training)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}\n{explain_step(training, batch, run)}") from None
            clock.lap()
            rate = (training.step - logged[0]) * config.batch_size / (clock.total - logged[1])
            logged = training.step, clock.total
            record |= {"images_per_s": rate, "train_s": clock.training, "first_step_s": clock.first_step}
            if world.is_main:
                run.metrics.append(record)
            text = f"loss {record['loss']:.3f}, contrastive accuracy {record['contrastive_accuracy']:.2f}"
            bar.set_postfix_str(text)
        signal = world.any(stop.number)
        if signal or (config.checkpoint_every and training.step % config.checkpoint_every == 0 and not at_end):
            clock.lap()
            write_checkpoint(training, writer)
            clock.start()
        if signal:
            bar.close()
            raise Interrupted(signal, f"stopped at step {training.step}, epoch {training.epoch + 1}")
    bar.close()
    if text:
        say(training, run, f"{title}: {text}, {rate:.0f} images/s")


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


def can_evaluate(data: Splits) -> bool:
    """Tell whether both splits have labels."""
    return data.test is not None and int(data.train.labels.max()) >= 0 and int(data.test.labels.max()) >= 0


def is_evaluation_due(config: PretrainConfig, epoch: int) -> bool:
    """Tell whether kNN is computed after `epoch` (counted from 0)."""
    return epoch + 1 == config.epochs or (config.knn_every > 0 and (epoch + 1) % config.knn_every == 0)


def is_checkpoint_due(training: Training) -> bool:
    """Tell whether the end of the current epoch is saved; the last one always is, after its evaluation."""
    due = (training.epoch + 1) % training.config.checkpoint_epochs == 0
    return due or is_evaluation_due(training.config, training.epoch)


def evaluate_epoch(training: Training, run: Run) -> Features:
    """Compute kNN accuracy on frozen features, log it, and return the features."""
    config = training.config
    features = labelled_features(training.model.encoder, training.data, config, training.world)
    k = min(config.knn_k, len(features.train))
    accuracy = knn_accuracy(features, k=k, temperature=config.knn_temperature)
    if training.world.is_main:
        run.metrics.append({"kind": "eval", "epoch": training.epoch + 1, "step": training.step, "knn": accuracy})
    say(training, run, f"epoch {training.epoch + 1}/{config.epochs}: kNN {100 * accuracy:.1f}%")
    return features


def write_checkpoint(training: Training, writer: CheckpointWriter | None) -> None:
    """Save the position and everything that moves; never with a loss that is not finite."""
    totals = training.world.sum(training.totals)
    if not bool(totals.isfinite().all()):
        read_totals(training)
    if writer is None:
        return
    checkpoint = Checkpoint(
        config=dataclasses.asdict(training.config),
        fingerprint=training.data.train.fingerprint,
        epoch=training.epoch,
        step_in_epoch=training.step_in_epoch,
        step=training.step,
        model=training.model.state_dict(),
        loss=training.loss.state_dict(),
        optimizer=training.optimizer.state_dict(),
        probe={} if training.probe is None else training.probe.state_dict(),
        totals=totals,
        seconds=(training.clock.training, training.clock.first_step),
    )
    writer.save(checkpoint)


def restore(training: Training, checkpoint: Checkpoint, folder: Path) -> None:
    """Put `training` where `checkpoint` was written.

    Raises:
        ValueError: the data is not what the run was started with.
    """
    fingerprint = training.data.train.fingerprint
    if checkpoint.fingerprint != fingerprint:
        raise ValueError(
            f"{folder} was trained on other images than {training.config.data!r} holds now (fingerprint "
            f"{checkpoint.fingerprint[:12]}, now {fingerprint[:12]}): restore them, or start a new run"
        )
    training.model.load_state_dict(checkpoint.model)
    training.loss.load_state_dict(checkpoint.loss)
    training.optimizer.load_state_dict(checkpoint.optimizer)
    if training.probe is not None:
        training.probe.load_state_dict(checkpoint.probe)
    if training.world.is_main:  # sums over all processes, however many there were
        training.totals.copy_(checkpoint.totals)
    training.epoch, training.step_in_epoch = checkpoint.epoch, checkpoint.step_in_epoch
    training.step = checkpoint.step
    training.clock.training, training.clock.first_step = checkpoint.seconds


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


def say(training: Training, run: Run, text: str) -> None:
    """Print a line, on the first process only."""
    if training.world.is_main:
        run.say(text)


def report_data(training: Training, run: Run) -> None:
    """Say which loader serves the images, and which files could not be used, the first few by name."""
    data = training.data
    say(training, run, f"loader: {data.loader}, because {data.reason}")
    skipped = [item for split in (data.train, data.test) if split is not None for item in split.skipped]
    if skipped:
        say(training, run, f"{len(skipped)} file(s) left out:")
        for name, reason in skipped[:SHOWN_SKIPPED]:
            say(training, run, f"  {name!a}: {reason}")  # names may hold what a terminal cannot show


def describe(training: Training) -> str:
    """Return one line on what is about to be trained, on what, and how."""
    config, world = training.config, training.world
    parameters = sum(p.numel() for p in training.model.encoder.parameters())
    precision = "bfloat16 autocast" if training.autocast else "float32"
    if training.epoch == config.epochs:
        where = ", finished before"
    else:
        where = f" from epoch {training.epoch + 1}" if training.step else ""
    device = f"{world.size} x {world.device.type}" if world.size > 1 else str(world.device)
    return (
        f"SimCLR{where}: {config.encoder} x{config.width:g} ({parameters / 1e6:.2f} M parameters), "
        f"{len(training.data.train)} images of {config.data}, {config.epochs} epochs of {len(training.loader)} steps "
        f"of {config.batch_size}, {config.optimizer} at {peak_lr(config):g}, {device}, {precision}"
    )
