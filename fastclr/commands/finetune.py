"""`fastclr finetune RUN`: train the whole network of a run on few labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.run_options import TrainingOptions
from fastclr.sources.printable import show
from fastclr.transfer.classifier import check_free
from fastclr.transfer.finetune import FinetuneConfig, finetune, percent


@dataclass
class FinetuneOptions:
    """Put a classifier on a layer of a run's network, train all of it on some labels, and score it on the test images.

    Crops and flips only, one process. The scores are those after the last epoch.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    config: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)
    common: tyro.conf.OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)


def main(arguments: list[str]) -> None:
    """Fine-tune, store network and scores in the run, print them."""
    options = tyro.cli(FinetuneOptions, args=arguments, prog="fastclr finetune")
    config, name, overwrite = options.config, options.common.name or options.config.name, options.common.overwrite
    check_free(options.run / name, overwrite)
    run, data = options.common.open(options.run)
    stored = finetune(run, data, config, name=name, overwrite=overwrite)
    what = "from scratch" if config.from_scratch else f"fine-tuned from layer {stored.layer}"
    show(f"{what}: {percent(stored.result)} ({run.folder / name})")
