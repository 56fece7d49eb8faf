"""`fastclr distill RUN`: train a student on the predictions of a fine-tuned network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.preset import shallow
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.transfer.distill import DistillConfig, find_teacher
from fastclr.transfer.finetune import format_accuracy
from fastclr.transfer.training_options import TrainingOptions


@dataclass
class DistillOptions:
    """Train a student on the predictions of a fine-tuned teacher for all training images, labelled or not.

    Crops and flips only. A stopped call goes on when it is given again, on any number of processes. The scores are
    those after the last epoch.
    """

    teacher: Annotated[Path, tyro.conf.Positional]
    """Folder of a run with exactly one fine-tuned network, or of a fine-tuned network such as RUN/finetune-1pct."""
    config: tyro.conf.OmitArgPrefixes[DistillConfig] = field(default_factory=DistillConfig)
    common: tyro.conf.OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)


def main(arguments: list[str]) -> None:
    """Distil, save the student and its scores in the run, and print the scores."""
    options = tyro.cli(DistillOptions, args=arguments, prog="fastclr distill")
    folder = find_teacher(options.teacher)
    run = Run(folder.parent)
    stored = run.distill(folder.name, **shallow(options.config), **shallow(options.common))
    if not speaks():
        return
    what = "student on labels alone" if options.config.no_teacher else f"student of {folder.name}"
    taught = f"the teacher has {100 * stored.result['teacher_accuracy']:.2f}%"
    show(f"{what}: {format_accuracy(stored.result)}; {taught} ({run.folder / stored.result['name']})")
