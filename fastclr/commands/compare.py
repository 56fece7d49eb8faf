"""`fastclr compare RUN RUN...`: several runs in one table, and on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.report import write_comparison
from fastclr.sources.printable import one_line, show
from fastclr.training.run import Run


@dataclass
class CompareOptions:
    """Print scores and cost of several runs, and write a page that puts their curves over each other."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Folders of runs."""
    out: Path = Path("comparison.html")
    """The page."""


def main(arguments: list[str]) -> None:
    """Write the page and print the table."""
    options = tyro.cli(CompareOptions, args=arguments, prog="fastclr compare")
    compare([Run.open(folder) for folder in options.runs], options.out)


def compare(runs: list[Run], out: Path) -> None:
    """Write the page and print its first table, with the first two columns on the left."""
    table = write_comparison(runs, out)
    rows = [[one_line(str(cell)) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        show("  ".join(cells).rstrip())
    show(f"\n{out}: {len(runs)} runs")
