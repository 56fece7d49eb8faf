"""`fastclr report RUN`: a page about one run; about several, the page of `fastclr compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.compare import compare
from fastclr.sources.printable import show
from fastclr.training.run import Run as Folder


@dataclass
class ReportOptions:
    """Write report.html into the folder of a run, or a page that compares several runs."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Folders of runs."""
    out: Path = Path("comparison.html")
    """File for the comparison of several runs."""
    data: str | None = None
    """Where the images of a single run are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images of a single run. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""


def main(arguments: list[str]) -> None:
    """Write the page."""
    options = tyro.cli(ReportOptions, args=arguments, prog="fastclr report")
    if not options.runs:
        raise ValueError("expected the folder of at least one run, got none")
    if len(options.runs) > 1:
        return compare([Folder.open(folder) for folder in options.runs], options.out)
    path = Run(options.runs[0]).report(data=options.data, test_data=options.test_data, device=options.device)
    show(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
