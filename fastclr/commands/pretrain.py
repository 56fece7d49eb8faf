"""`fastclr pretrain`: start a run, or continue one with `--resume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api.starting import AUTO, default_folder, start
from fastclr.commands.preset import PRESET_HELP, base_config, early_option, parse
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import can_evaluate
from fastclr.training.phases import ExtensionKind
from fastclr.training.run import Run


@dataclass
class PretrainOptions:
    """Pretrain an encoder without labels."""

    config: PretrainConfig
    preset: Annotated[str | None, tyro.conf.arg(help=PRESET_HELP)] = None
    out: Path | None = None
    """Folder of the run. Default: runs/ followed by the name of the preset, otherwise of the data."""
    resume: str | None = None
    """Continue the run in this folder from its last checkpoint; `auto`: that in --out, or start it."""
    extend: ExtensionKind | None = None
    """Rates from the last checkpoint on, where --epochs is not the run's: a new cosine from the peak, or the peak.
    Default: cosine-restart after the run's last epoch, before it an error."""


def main(arguments: list[str]) -> None:
    """Parse the options, run, and print where the results are."""
    preset, resume = early_option(arguments, "--preset"), early_option(arguments, "--resume")
    base = base_config(arguments)
    if preset is not None and resume not in (None, AUTO):
        raise ValueError("--resume uses the configuration of the run: drop --preset")
    if resume not in (None, AUTO):
        base = Run.open(Path(resume)).config
    options = parse(PretrainOptions, base, arguments, "fastclr pretrain")
    folder = options.out or default_folder(options.config, options.preset)
    if options.resume not in (None, AUTO):
        if options.out not in (None, Path(options.resume)):
            raise ValueError(f"--resume continues in {options.resume}: drop --out {options.out}")
        folder = Path(options.resume)
    run, images = start(options.config, folder, resume=options.resume, extend=options.extend)
    if speaks():
        labels = "" if can_evaluate(images) else " --labels LABELS.csv"
        evaluate = f"fastclr knn {run.folder}{labels}; fastclr probe {run.folder}{labels}"
        show(f"done: {run.folder} (evaluate it with: {evaluate})")
