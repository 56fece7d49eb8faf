"""The pretraining loop: steps, log records, checkpoints and evaluations, epoch by epoch."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from fastclr.data import Splits
from fastclr.device import peak_memory
from fastclr.environment import record_environment
from fastclr.evaluate import Features
from fastclr.methods import METHODS
from fastclr.methods.model import check_start
from fastclr.methods.own_encoder import is_given
from fastclr.parallel import World, open_world
from fastclr.training.build import MakeMethod, Training, build, check_model, find_data
from fastclr.training.checkpoint_writer import CheckpointWriter
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import can_evaluate, evaluate_epoch, evaluate_start, is_evaluation_due, say
from fastclr.training.health import find_collapse
from fastclr.training.metric_hooks import check_hooks, open_hooks
from fastclr.training.metric_names import FIRST, PEAK, PROCESSOR, SECONDS, SPEED
from fastclr.training.optim import peak_lr
from fastclr.training.progress import Progress
from fastclr.training.run import Run
from fastclr.training.save import is_checkpoint_due, restore, write_checkpoint
from fastclr.training.step import explain_step, read_totals, train_step
from fastclr.training.stopping import Interrupted, StopRequest
from fastclr.training.train_log import TrainLog

SHOWN_SKIPPED = 10


class Pretrained(NamedTuple):
    """The result of pretraining: the run, its images, and the features of the last evaluation, if there was one."""

    run: Run
    data: Splits
    features: Features | None


def pretrain_in(
    folder: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    data: Splits | None = None,
) -> Pretrained:
    """Pretrain an encoder and write the run to `folder`, all but the report.

    Under torchrun, or with an initialised process group, all processes train one model on the same global batch. Only
    the first one writes, and all of them must be able to read the folder.

    Args:
        folder: a new folder; with `resume`, the folder of a run with the same configuration.
        config: the run.
        resume: continue from the last checkpoint in `folder`, on any number of processes.
        progress: show progress bars if the output is a terminal.
        data: the images, in place of those that `config` names.

    Raises:
        FileExistsError: `folder` exists and `resume` is off.
        FileNotFoundError: there is nothing to resume.
        ValueError: the configuration, the data and the checkpoint do not match.
        FloatingPointError: the loss became NaN or infinite; the last checkpoint is kept.
        BlockingIOError: another process is training in `folder`.
        Interrupted: SIGTERM or SIGINT was received; a checkpoint of that very step was written.
    """
    ended = train_in(folder, config, resume=resume, progress=progress, data=data)
    return Pretrained(ended.run, ended.training.data, ended.features)


class Ended(NamedTuple):
    """A training that reached its last epoch."""

    run: Run
    training: Training
    features: Features | None


def train_in(
    folder: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    data: Splits | None = None,
    make: MakeMethod | None = None,
) -> Ended:
    """Train as `pretrain_in` does, on other images than those that `config` names, or with a method made by hand.

    Args:
        folder: as in `pretrain_in`.
        config: likewise.
        resume: likewise.
        progress: likewise.
        data: the images; without test images nothing is evaluated.
        make: makes the method. Where a checkpoint is resumed, its state replaces that of the method.

    Raises:
        Exception: as `pretrain_in`.
    """
    check_hooks(config)
    with open_world(config.device) as world, ExitStack() as files:
        told, writer = files.enter_context(TrainLog()), None
        run = dataclasses.replace(Run.open(folder, config) if resume else Run(folder, config), told=told)
        config = run.config  # of a run that goes on: with the loader and the range that it began with
        if not resume:
            Run.check_free(folder)
        elif world.is_main:
            # locked before the checkpoint is read, so that no other process can write a newer one
            writer = files.enter_context(run.checkpoint_writer())
        if data is None:
            find_data(config)
        checkpoint = run.latest_checkpoint() if resume else None
        if checkpoint is None and make is None:
            find_start(config, world, run)
        if world.is_main:  # now: timm takes two seconds to import
            run.say(f"{METHODS[config.method].title}: building {config.encoder}")
        check_model(config, world, make)  # all that is cheap to check comes before the images
        if world.is_main:  # to list a million files takes a minute
            run.say(f"reading the images of {config.data}")
        tokenizer = run.load_tokenizer() if resume and run.has_tokenizer else None
        training = build(config, world, data, make, fresh=checkpoint is None, tokenizer=tokenizer)
        if checkpoint is not None:
            restore(training, checkpoint, folder)
        world.barrier()  # every process must see the folder empty before the first one fills it
        run = run.with_config(training.config)
        if world.is_main:
            if writer is None:
                begin(training, run, files)
                writer = files.enter_context(run.checkpoint_writer())
            else:
                run.save_config()  # the location of the images may have changed
            told.open(run.folder / "train.log")
            if training.tokenizer is not None:
                run.save_tokenizer(training.tokenizer)
            record_environment(run.folder)
            if training.data.held_out and training.data.test is not None and checkpoint is None:
                run.record_held_out(training.data.test.names)
            if resume:
                open_log(training, run, files)
        for line in training.method.started:
            say(training, run, line)
        say(training, run, describe(training))
        report_data(training, run)
        if checkpoint is None and is_given(training.config.encoder):
            # who resumes a run that was killed early may bring other weights than those it started from
            write_checkpoint(training, writer)
            if writer is not None:
                writer.wait()
        features = train(training, run, writer, progress)
        training.loader.close()
        world.barrier()
        return Ended(run, training, features)


def find_start(config: PretrainConfig, world: World, run: Run) -> None:
    """Find the weights that a new run starts from before any image is read, and say what was matched."""
    if not world.is_main and config.download:
        world.barrier()  # the first process fetches them; the others then read its files
    lines = check_start(config, download=config.download)
    if world.is_main and config.download:
        world.barrier()
    for line in lines if world.is_main else ():
        run.say(line)


def begin(training: Training, run: Run, files: ExitStack) -> None:
    """Make the folder of a new run and open its log; if that fails, as without a login, the folder is left empty."""
    Run.create(run.folder, run.config)
    try:
        open_log(training, run, files)
    except BaseException:
        for path in run.folder.iterdir():  # all of this run: the folder was free
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def open_log(training: Training, run: Run, files: ExitStack) -> None:
    """Truncate the log to the current position, and open TensorBoard and Weights & Biases if requested."""
    config = training.config
    metrics = files.enter_context(closing(run.metrics))
    metrics.keep_up_to(training.step, training.epoch)  # a run killed before its first checkpoint starts over
    metrics.hooks = open_hooks(run.folder, config, training.step)


def train(training: Training, run: Run, writer: CheckpointWriter | None, progress: bool) -> Features | None:
    """Train from the current position to the last epoch, with checkpoints and evaluations between epochs.

    Returns:
        The features of the last evaluation, if there was one.
    """
    config, features, stop = training.config, None, StopRequest()
    steps, main = len(training.loader), training.world.is_main
    evaluate_start(training, run)
    with closing(Progress(run, config.epochs, steps, training.step, bar=progress, speaks=main)) as shown:
        while training.epoch < config.epochs:
            with stop.watch():
                train_epoch(training, run, writer, stop, shown)
                # saved before the evaluation, so that a kill during it costs only the evaluation
                if is_checkpoint_due(training):
                    write_checkpoint(training, writer)
            if can_evaluate(training.data) and is_evaluation_due(config, training.epoch):
                features, shown.score = evaluate_epoch(training, run)
            training.epoch, training.step_in_epoch = training.epoch + 1, 0
            if training.epoch == config.epochs:
                write_checkpoint(training, writer)
    return features


def train_epoch(
    training: Training, run: Run, writer: CheckpointWriter | None, stop: StopRequest, shown: Progress
) -> None:
    """Train on the remainder of the current epoch.

    Raises:
        Interrupted: a stop was requested on any rank; the position has been saved.
        FloatingPointError: the loss is not finite.
    """
    config, loader, world = training.config, training.loader, training.world
    training.method.train()
    clock = training.clock
    logged = training.step, clock.total
    clock.start()
    for batch in loader.epoch(training.epoch, start_step=training.step_in_epoch):
        train_step(training, batch)
        shown.update()
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
            record |= {SPEED: rate, SECONDS: clock.training, FIRST: clock.first_step}
            record |= {PROCESSOR: clock.take_processor(), PEAK: peak_memory(world.device)}
            if world.is_main:
                run.metrics.append(record)
            shown.show(record)
        signal = world.any(stop.number)
        if signal or (config.checkpoint_every and training.step % config.checkpoint_every == 0 and not at_end):
            clock.lap()
            write_checkpoint(training, writer)
            clock.start()
        if signal:
            raise Interrupted(signal, f"stopped at step {training.step}, epoch {training.epoch + 1}")
    shown.end_epoch()
    if warning := find_collapse(run.metrics.read(), training.method.cause):
        say(training, run, f"warning: {warning}")


def report_data(training: Training, run: Run) -> None:
    """Print which loader is used and why, and the first few of the files that were skipped."""
    data = training.data
    say(training, run, f"loader: {data.loader}, because {data.reason}")
    if data.scaling:
        say(training, run, f"depth: {data.scaling}")
    skipped = [item for split in (data.train, data.test) if split is not None for item in split.skipped]
    if skipped:
        say(training, run, f"{len(skipped)} file(s) skipped:")
        for name, reason in skipped[:SHOWN_SKIPPED]:
            say(training, run, f"  {name!a}: {reason}")  # names may contain characters that a terminal cannot show


def describe(training: Training) -> str:
    """Return a one-line summary of the training about to start."""
    config, world = training.config, training.world
    parameters = sum(p.numel() for p in training.method.encoder.parameters())
    precision = "bfloat16 autocast" if training.autocast else "float32"
    where = f" from epoch {training.epoch + 1}" if training.step else ""
    where = ", already finished" if training.epoch == config.epochs else where
    device = f"{world.size} x {world.device.type}" if world.size > 1 else str(world.device)
    return (
        f"{training.method.title}{where}: {config.encoder} x{config.width:g} ({parameters / 1e6:.2f} M parameters), "
        f"{len(training.data.train)} images of {config.data}, {config.epochs} epochs of {len(training.loader)} steps "
        f"of {config.batch_size}, {config.optimizer} at {peak_lr(config):g}, {device}, {precision}"
    )
