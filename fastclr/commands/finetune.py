"""`fastclr finetune RUN`: train the whole network of a run on few labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.preset import shallow
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.transfer.finetune import FinetuneConfig, format_accuracy
from fastclr.transfer.training_options import TrainingOptions


@dataclass
class FinetuneOptions:
    """Put a classifier on a layer of a run's network, train the whole on some labels, and score it on the test images.

    Crops and flips only. A stopped call goes on when it is given again, on any number of processes. The scores are
    those after the last epoch.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    config: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)
    common: tyro.conf.OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)


def main(arguments: list[str]) -> None:
    """Fine-tune, save the network and its scores in the run, and print the scores."""
    options = tyro.cli(FinetuneOptions, args=arguments, prog="fastclr finetune")
    stored = Run(options.run).finetune(**shallow(options.config), **shallow(options.common))
    if not speaks():
        return
    what = "from scratch" if options.config.from_scratch else f"fine-tuned from layer {stored.layer}"
    show(f"{what}: {format_accuracy(stored.result)} ({options.run / stored.result['name']})")
