"""`fastclr pretrain`: start a run, or continue one with `--resume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import default_folder, start
from fastclr.commands.preset import PRESET_HELP, base_config, early_option, parse
from fastclr.methods import METHODS
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.health import find_collapse
from fastclr.training.run import Run


@dataclass
class PretrainOptions:
    """Pretrain an encoder without labels."""

    config: PretrainConfig
    preset: Annotated[str | None, tyro.conf.arg(help=PRESET_HELP)] = None
    out: Path | None = None
    """Folder of the run. Default: runs/ followed by the name of the preset, otherwise of the data."""
    resume: Path | None = None
    """Continue the run in this folder from its last checkpoint."""


def main(arguments: list[str]) -> None:
    """Parse the options, run, and print where the results are."""
    preset, resume = early_option(arguments, "--preset"), early_option(arguments, "--resume")
    base = base_config(arguments)
    if preset is not None and resume is not None:
        raise ValueError("--resume uses the configuration of the run: drop --preset")
    if resume:
        base = Run.open(Path(resume)).config
    options = parse(PretrainOptions, base, arguments, "fastclr pretrain")
    if options.resume is not None and options.out not in (None, options.resume):
        raise ValueError(f"--resume continues in {options.resume}: drop --out {options.out}")
    folder = options.resume or options.out or default_folder(options.config, options.preset)
    run = start(options.config, folder, resume=options.resume is not None)
    if speaks():
        if warning := find_collapse(run.metrics, METHODS[run.config.method].cause):
            show(f"warning: {warning}")
        show(f"done: {run.folder} (evaluate it with: fastclr knn {run.folder}; fastclr probe {run.folder})")
