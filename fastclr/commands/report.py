"""`fastclr report RUN`: a page about one run; about several, the page of `fastclr compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.compare import show_comparison
from fastclr.commands.preset import shallow
from fastclr.sources.printable import show
from fastclr.training.images import ImageOptions


@dataclass
class ReportOptions:
    """Write report.html into the folder of a run, or a page that compares several runs."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Folders of runs."""
    out: Path = Path("comparison.html")
    """File for the comparison of several runs."""
    common: tyro.conf.OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)


def main(arguments: list[str]) -> None:
    """Write the page."""
    options = tyro.cli(ReportOptions, args=arguments, prog="fastclr report")
    if not options.runs:
        raise ValueError("expected the folder of at least one run, got none")
    if len(options.runs) > 1:
        return show_comparison(options.runs, options.out)
    path = Run(options.runs[0]).report(**shallow(options.common))
    show(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
