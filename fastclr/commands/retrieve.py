"""`fastclr retrieve RUN`: how well images find their captions, and captions their images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.preset import shallow
from fastclr.sources.printable import show
from fastclr.training.image_text import RetrieveOptions


@dataclass
class Command:
    """Score the search between images and captions: recall at 1, 5 and 10 in both directions."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of images and texts."""
    options: tyro.conf.OmitArgPrefixes[RetrieveOptions] = field(default_factory=RetrieveOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it."""
    command = tyro.cli(Command, args=arguments, prog="fastclr retrieve")
    result = Run(command.run).retrieve(**shallow(command.options))
    for name, side in result.items():
        recalls = ", ".join(
            f"recall@{k} {100 * side[f'recall_at_{k}']:.2f}% (chance {100 * side[f'chance_at_{k}']:.2f}%)"
            for k in (1, 5, 10)
        )
        show(f"{name}: {recalls}, median rank {side['median_rank']:g} of {side['items']}")
