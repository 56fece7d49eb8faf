"""`fastclr report RUN`: a page about one run; about several, the page of `fastclr compare`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.compare import compare
from fastclr.data import Splits
from fastclr.report import Missing, write_report
from fastclr.sources.printable import show
from fastclr.training.build import load_data
from fastclr.training.run import Run


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
    runs = [Run.open(folder) for folder in options.runs]
    if len(runs) > 1:
        return compare(runs, options.out)
    config = runs[0].config
    data, test_data = options.data or config.data, options.test_data or config.test_data
    run = Run(runs[0].folder, dataclasses.replace(config, data=data, test_data=test_data, device=options.device))
    images = find_images(run)
    path = write_report(run, images, say=run.say)
    show(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if isinstance(images, Missing):
        show(f"without pictures and features: {images.reason}")


def find_images(run: Run) -> Splits | Missing:
    """Return the images of a run, or why they could not be loaded."""
    try:
        return load_data(run.config)
    except (ValueError, OSError) as error:
        return Missing(f"The images could not be read: {error}. If they have moved, pass their location with --data.")
