"""`fastclr compare RUN RUN...`: several runs in one table, and on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import compare
from fastclr.sources.printable import one_line, show


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
    show_comparison(options.runs, options.out)


def show_comparison(runs: Sequence[Path], out: Path) -> None:
    """Write the page and print its first table, with the first two columns on the left."""
    found = compare(runs, out).runs
    rows = [[one_line(cell) for cell in row] for row in (list(found[0]), *(each.values() for each in found))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        show("  ".join(cells).rstrip())
    show(f"\n{out}: {len(found)} runs")
