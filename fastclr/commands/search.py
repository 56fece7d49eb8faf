"""`fastclr search FEATURES QUERY`: the nearest neighbours of an image, or with --text of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import search
from fastclr.commands.preset import shallow
from fastclr.sources.printable import one_line, show
from fastclr.transfer.search import Neighbour


@dataclass
class SearchOptions:
    """Find the images whose features have the highest cosine similarity to those of an image or a text."""

    features: Annotated[Path, tyro.conf.Positional]
    """A file written by `fastclr embed`."""
    query: Annotated[str | None, tyro.conf.Positional] = None
    """The id or name of an image in that file, or an image file."""
    text: str | None = None
    """What to look for in place of an image, in features z of a run of images and texts."""
    run: Path | None = None
    """Folder of the run that made the features; needed for an image file and for a text."""
    k: int = 10
    """Number of neighbours."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device: `cpu`, `cuda:1`, `mps`."""


def main(arguments: list[str]) -> None:
    """Search, and print a table."""
    options = tyro.cli(SearchOptions, args=arguments, prog="fastclr search")
    show(format_neighbours(search(**shallow(options))))


def format_neighbours(neighbours: Sequence[Neighbour]) -> str:
    """Format the neighbours as a text table."""
    known = any(each.label is not None for each in neighbours)
    lines = [f"{'rank':>4}  {'cosine':>7}  {'id':>8}  {'class  ' if known else ''}name"]
    for rank, (cosine, row, name, label) in enumerate(neighbours, start=1):
        kind = f"{'?' if label is None else one_line(label)}  " if known else ""
        lines.append(f"{rank:>4}  {cosine:7.4f}  {row:>8}  {kind}{one_line(name)}")
    return "\n".join(lines)
