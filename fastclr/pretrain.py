"""The training loop: build -> for epoch -> for batch -> augment -> encode -> loss -> step -> log -> checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.augment import SimCLRAugment
from fastclr.checkpoint import Checkpoint, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from fastclr.config import PretrainConfig
from fastclr.data import ResidentLoader, Splits, load_splits
from fastclr.device import resolve_device, set_deterministic, uses_bf16
from fastclr.environment import record_environment
from fastclr.evaluate import Features, knn_accuracy, labelled_features
from fastclr.losses import NTXentLoss, nt_xent
from fastclr.models import SimCLRModel, build_model
from fastclr.report import write_report
from fastclr.run import Run

SHOWN_SKIPPED = 10


@dataclasses.dataclass
class Training:
    """The parts of a training run, and its position: `step_in_epoch` batches of `epoch` are done."""

    config: PretrainConfig
    device: torch.device
    autocast: bool
    data: Splits
    loader: ResidentLoader
    augment: SimCLRAugment
    model: SimCLRModel
    loss: NTXentLoss
    optimizer: torch.optim.Optimizer
    schedule: Any  # timm.scheduler.CosineLRScheduler
    totals: Tensor  # sums since the last log record: loss, contrastive accuracy, entropy, steps
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


def pretrain_in(folder: Path, config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> Run:
    """Pretrain an encoder with SimCLR and leave everything about it in `folder`.

    Args:
        folder: a new folder; with `resume` the folder of a run with the same configuration.
        config: the run.
        resume: go on from the last checkpoint in `folder`.
        progress: show progress bars where the output is a terminal.

    Raises:
        FileExistsError: `folder` exists and `resume` is off.
        FileNotFoundError: there is nothing to resume.
        ValueError: the configuration, the data or the checkpoint do not fit.
        FloatingPointError: the loss became NaN or infinite; the last checkpoint is kept.
    """
    run = Run.open(folder, config) if resume else None
    checkpoint = load_checkpoint(run.checkpoint) if run and run.checkpoint.exists() else None
    if run is None:
        Run.check_free(folder)
    training = build(config)
    if checkpoint is not None:
        restore(training, checkpoint, folder)
    if run is None:
        run = Run.create(folder, config)
    else:
        run.metrics.keep_up_to(training.step)  # killed before its first checkpoint, a run starts over
    record_environment(run.folder)
    run.say(describe(training))
    report_skipped(training.data, run)
    features = None
    for epoch in range(training.epoch, config.epochs):
        train_epoch(training, run, progress)
        if can_evaluate(training.data) and is_evaluation_due(config, epoch):
            features = evaluate_epoch(training, run)
        training.epoch, training.step_in_epoch = epoch + 1, 0
        write_checkpoint(training, run)
    write_report(run, training.data, features)
    return run


def build(config: PretrainConfig) -> Training:
    """Load the data and build model, loss, optimiser and schedule as `config` says."""
    device = resolve_device(config.device)
    if config.deterministic:
        set_deterministic()
    data = load_data(config)
    loader = ResidentLoader(data.train, config.batch_size, seed=config.seed, device=augment_device(device))
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    loss = NTXentLoss(config.temperature, learnable_temperature=config.learnable_temperature).to(device)
    optimizer = build_optimizer(config, model, loss)
    return Training(
        config=config,
        device=device,
        autocast=uses_bf16(config.amp, device),
        data=data,
        loader=loader,
        augment=SimCLRAugment(config.augment, views=2, seed=config.seed, channels_last=config.channels_last),
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=build_schedule(config, optimizer, len(loader)),
        totals=torch.zeros(4, device=device, dtype=torch.float64),
    )


def augment_device(device: torch.device) -> torch.device:
    """Return where to hold the images and augment them: on `device` if the operator is built for it, else the CPU."""
    return device if SimCLRAugment.supports(device) else torch.device("cpu")


def load_data(config: PretrainConfig) -> Splits:
    """Load the images that `config` names.

    Raises:
        ValueError: it names none.
    """
    if not config.data:
        raise ValueError("data must be `shapes`, a folder, a tar or a CIFAR archive: give it with --data PATH")
    return load_splits(
        config.data,
        config.test_data,
        holdout=config.holdout,
        seed=config.seed,
        resize_shorter=config.resize_shorter,
    )


def build_optimizer(config: PretrainConfig, model: nn.Module, loss: nn.Module) -> torch.optim.Optimizer:
    """Build SGD over everything, or AdamW that leaves biases and norms undecayed; a temperature is never decayed."""
    from timm.optim import param_groups_weight_decay

    if config.optimizer == "adamw":
        groups = param_groups_weight_decay(model, config.weight_decay)
    else:
        groups = [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": config.weight_decay}]
    if extra := list(loss.parameters()):
        groups.append({"params": extra, "weight_decay": 0.0})
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def build_schedule(config: PretrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Build timm's cosine schedule to zero, step by step, after a linear warm-up from zero."""
    from timm.scheduler import CosineLRScheduler

    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = config.epochs * steps_per_epoch - warmup
    return CosineLRScheduler(optimizer, t_initial=steps, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False)


def train_epoch(training: Training, run: Run, progress: bool) -> None:
    """Train on what is left of the current epoch."""
    config, loader = training.config, training.loader
    training.model.train()
    bar = run.bar(len(loader), training.step_in_epoch, f"epoch {training.epoch + 1}/{config.epochs}", progress)
    clock, images = time.perf_counter(), 0
    for batch in loader.epoch(training.epoch, start_step=training.step_in_epoch):
        train_step(training, batch.images, batch.ids)
        images += len(batch)
        training.step_in_epoch += 1
        training.step += 1
        bar.update()
        at_end = training.step_in_epoch == len(loader)
        if training.step % config.log_every == 0 or at_end:
            record = read_totals(training)
            record["images_per_s"] = images / (time.perf_counter() - clock)
            run.metrics.append(record)
            text = f"loss {record['loss']:.3f}, contrastive accuracy {record['contrastive_accuracy']:.2f}"
            bar.set_postfix_str(text)
            clock, images = time.perf_counter(), 0
        if config.checkpoint_every and training.step % config.checkpoint_every == 0 and not at_end:
            write_checkpoint(training, run)
    bar.close()
    run.say(f"epoch {training.epoch + 1}/{config.epochs}: {text}, {record['images_per_s']:.0f} images/s")


def train_step(training: Training, images: Any, ids: Tensor) -> None:
    """One step: two views, one forward through the model, NT-Xent, one update."""
    views = training.augment(images, ids, training.epoch).to(training.device)
    with torch.autocast(training.device.type, torch.bfloat16, enabled=training.autocast):
        z = training.model(views.flatten(0, 1))  # both views in one pass: batch norm sees them together
    z0, z1 = z.chunk(2)
    loss, stats = nt_xent(z0, z1, training.loss.temperature, return_stats=True)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if training.config.clip_grad is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), training.config.clip_grad)
    training.schedule.step_update(training.step)
    training.optimizer.step()
    # summed on the device, so that only a log record waits for it
    sums = [loss.detach(), stats.accuracy.mean(), stats.entropy.mean(), torch.ones_like(loss)]
    training.totals += torch.stack([s.double() for s in sums])


def read_totals(training: Training) -> dict[str, Any]:
    """Return the means since the last record and reset them.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    loss, accuracy, entropy, steps = training.totals.tolist()
    training.totals.zero_()
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} before step {training.step} (epoch {training.epoch + 1}); the last checkpoint is "
            f"kept. Try a lower lr (now {training.config.lr}), a warm-up, or --amp off"
        )
    return {
        "kind": "train",
        "epoch": training.epoch + 1,
        "step": training.step,
        "loss": loss / steps,
        "contrastive_accuracy": accuracy / steps,
        "contrastive_entropy": entropy / steps,
        "temperature": float(torch.as_tensor(training.loss.temperature).detach()),
        "lr": training.optimizer.param_groups[0]["lr"],
    }


def can_evaluate(data: Splits) -> bool:
    """Tell whether both splits have labels."""
    return data.test is not None and int(data.train.labels.max()) >= 0 and int(data.test.labels.max()) >= 0


def is_evaluation_due(config: PretrainConfig, epoch: int) -> bool:
    """Tell whether kNN is computed after `epoch` (counted from 0)."""
    return epoch + 1 == config.epochs or (config.knn_every > 0 and (epoch + 1) % config.knn_every == 0)


def evaluate_epoch(training: Training, run: Run) -> Features:
    """Compute kNN accuracy on frozen features, log it, and return the features."""
    config = training.config
    features = labelled_features(training.model.encoder, training.data, config)
    k = min(config.knn_k, len(features.train))
    accuracy = knn_accuracy(features, k=k, temperature=config.knn_temperature)
    run.metrics.append({"kind": "eval", "epoch": training.epoch + 1, "step": training.step, "knn": accuracy})
    run.say(f"epoch {training.epoch + 1}/{config.epochs}: kNN {100 * accuracy:.1f}%")
    return features


def write_checkpoint(training: Training, run: Run) -> None:
    """Save the position and everything that moves; never over a good one with a loss that is not finite."""
    if not bool(training.totals.isfinite().all()):
        read_totals(training)
    checkpoint = Checkpoint(
        config=dataclasses.asdict(training.config),
        fingerprint=training.data.train.fingerprint,
        epoch=training.epoch,
        step_in_epoch=training.step_in_epoch,
        step=training.step,
        model=training.model.state_dict(),
        loss=training.loss.state_dict(),
        optimizer=training.optimizer.state_dict(),
        totals=training.totals,
        rng=rng_state(),
    )
    save_checkpoint(run.checkpoint, checkpoint)
    run.save_encoder(training.model.encoder)


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
    training.totals.copy_(checkpoint.totals)
    training.epoch, training.step_in_epoch = checkpoint.epoch, checkpoint.step_in_epoch
    training.step = checkpoint.step
    set_rng_state(checkpoint.rng)


def report_skipped(data: Splits, run: Run) -> None:
    """Say which files could not be used, the first few by name."""
    skipped = [item for split in (data.train, data.test) if split is not None for item in split.skipped]
    if skipped:
        run.say(f"{len(skipped)} file(s) left out:")
        for name, reason in skipped[:SHOWN_SKIPPED]:
            run.say(f"  {name!a}: {reason}")  # names may hold what a terminal cannot show


def describe(training: Training) -> str:
    """Return one line on what is about to be trained, on what, and how."""
    config = training.config
    parameters = sum(p.numel() for p in training.model.encoder.parameters())
    precision = "bfloat16 autocast" if training.autocast else "float32"
    where = f" from epoch {training.epoch + 1}" if training.step else ""
    return (
        f"SimCLR{where}: {config.encoder} x{config.width:g} ({parameters / 1e6:.2f} M parameters), "
        f"{len(training.data.train)} images of {config.data}, {config.epochs} epochs of {len(training.loader)} steps "
        f"of {config.batch_size}, {training.device}, {precision}"
    )
