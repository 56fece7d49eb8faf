"""SimCLR v2 as one run: pretrain, fine-tune on few labels, distil into a student; finished stages are not repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastclr.data import Splits
from fastclr.data.label_subsets import labelled_rows
from fastclr.files import refuse_other
from fastclr.methods.heads import first_layers, split_layers
from fastclr.methods.model import build_model
from fastclr.parallel import open_world, speaks
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained, check_fresh, check_test, is_pretrained, is_trained
from fastclr.transfer.distill import DistillConfig, distill
from fastclr.transfer.finetune import FinetuneConfig, finetune


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages after pretraining.

    Args:
        finetune: how to fine-tune the pretrained network.
        distill: the student and how to train it.
        self_first: first distil the teacher into its own architecture, and the student from that, as in the paper for
            smaller students.
        controls: also train from scratch on the same labels, and the student without a teacher.

    Raises:
        ValueError: a control is requested as a stage.
    """

    finetune: FinetuneConfig
    distill: DistillConfig
    self_first: bool
    controls: bool

    def __post_init__(self) -> None:
        """Reject controls as stages."""
        if self.finetune.from_scratch or self.distill.no_teacher:
            raise ValueError("v2 fine-tunes a pretrained network and distils from it: use --controls for the controls")


class Finished(NamedTuple):
    """The pretraining run, its images, and the networks of all later stages."""

    run: Run
    data: Splits
    stages: list[Trained]


def run_v2(folder: Path, config: PretrainConfig, plan: Plan) -> Finished:
    """Run the stages that are not yet finished in `folder`.

    Args:
        folder: new, or that of an earlier call with the same configuration, which is then continued.
        config: the pretraining.
        plan: the stages that follow.

    Raises:
        ValueError: the plan does not suit the data, or a finished stage was made with other settings.
        Interrupted: SIGTERM or SIGINT was received; finished stages and the pretraining checkpoint are kept.
    """
    with open_world(config.device) as world:  # one group of processes for all stages
        known = (folder / "config.json").is_file()
        run = Run.open(folder, config) if known else None
        if run is None:
            Run.check_free(folder)
        data = load_data(config)
        check_plan(config, plan, data)
        world.barrier()  # all have seen what is there, before one adds to it
        if run is None or not is_pretrained(run):
            del data  # the pretraining loads its own: one copy in memory at a time
            run, data, _ = pretrain_in(folder, config, resume=known)
        return Finished(run, data, run_later_stages(run, data, plan))


def check_plan(config: PretrainConfig, plan: Plan, data: Splits) -> None:
    """Raise a ValueError for anything that a later stage would reject, before the first stage runs."""
    check_test(data)
    labelled_rows(data.train, plan.finetune.share, plan.finetune.seed)
    if plan.distill.share is not None:
        labelled_rows(data.train, plan.distill.share, plan.finetune.seed)
    student = plan.distill.student_config(config, config)
    check_fresh(student)
    if plan.self_first and (student.encoder, student.width) == (config.encoder, config.width):
        raise ValueError(f"--self-first needs a student other than the teacher's {config.encoder} x{config.width:g}")
    with torch.random.fork_rng():
        head = build_model(config).head
        build_model(student)
    first_layers(head, plan.finetune.layer(len(split_layers(head))))


def run_later_stages(run: Run, data: Splits, plan: Plan) -> list[Trained]:
    """Run the stages after pretraining that are not yet finished."""
    tuned = finetune_once(run, data, plan.finetune)
    stages, teacher = [tuned], tuned
    if plan.controls:
        stages.append(finetune_once(run, data, dataclasses.replace(plan.finetune, from_scratch=True)))
    if plan.self_first:
        alone = dataclasses.replace(plan.distill, student=None, student_width=None)
        teacher = distill_once(run, data, tuned, alone)
        stages.append(teacher)
    stages.append(distill_once(run, data, teacher, plan.distill))
    if plan.controls:
        stages.append(distill_once(run, data, teacher, dataclasses.replace(plan.distill, no_teacher=True)))
    return stages


def finetune_once(run: Run, data: Splits, config: FinetuneConfig) -> Trained:
    """Fine-tune, unless already done."""
    name = config.name
    return load_or_train(run, name, config.settings(), lambda: finetune(run, data, config, name=name))


def distill_once(run: Run, data: Splits, teacher: Trained, config: DistillConfig) -> Trained:
    """Distil, unless already done."""
    name, settings = config.name(teacher.settings["share"], teacher.config), config.settings(teacher)
    return load_or_train(run, name, settings, lambda: distill(run, data, teacher, config, name=name))


def load_or_train(run: Run, name: str, settings: dict[str, Any], train: Callable[[], Trained]) -> Trained:
    """Return the network in the run's folder `name` if it is finished, otherwise train it.

    Raises:
        ValueError: it was made with other settings.
    """
    folder = run.folder / name
    if not is_trained(folder):
        return train()
    stored = Trained.load(folder, run.config.given)
    there = {name: stored.settings.get(name) for name in settings}
    refuse_other(there, settings, folder, "remove it, or give another --out")
    if speaks():
        run.say(f"{name} is there already")
    return stored


def format_stages(stages: list[Trained]) -> str:
    """Format the accuracies of all stages as a text table."""
    lines = [f"{'network':<34}{'encoder':<22}{'labels':>8}{'accuracy':>20}"]
    for trained in stages:
        result, config = trained.result, trained.config
        spread = "" if result["std"] is None else f" +- {100 * result['std']:.2f}"
        encoder = f"{config.encoder} x{config.width:g}"
        accuracy = f"{100 * result['accuracy']:.2f}%{spread}"
        lines.append(f"{result['name']:<34}{encoder:<22}{result['n_labels']:>8}{accuracy:>20}")
    return "\n".join(lines)
