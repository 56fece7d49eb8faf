"""`fastclr search FEATURES QUERY`: the nearest neighbours of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from fastclr.data.decode_many import pack
from fastclr.device import resolve_device
from fastclr.evaluate import extract_features, state_hash
from fastclr.sources.decode import decode_named
from fastclr.sources.printable import one_line, show
from fastclr.training.run import Run
from fastclr.transfer.embed import load_module
from fastclr.transfer.feature_file import Array, FeatureFile, nearest, read_features


@dataclass
class SearchOptions:
    """Find the images whose features have the highest cosine similarity to those of an image."""

    features: Annotated[Path, tyro.conf.Positional]
    """A file written by `fastclr embed`."""
    query: Annotated[str, tyro.conf.Positional]
    """The id or name of an image in that file, or an image file."""
    run: Path | None = None
    """Folder of the run that made the features; needed for an image file."""
    k: int = 10
    """Number of neighbours."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""


def main(arguments: list[str]) -> None:
    """Search, and print a table."""
    options = tyro.cli(SearchOptions, args=arguments, prog="fastclr search")
    table = read_features(options.features)
    path = Path(options.query)
    if not options.query.isdigit() and options.query not in table.names and path.is_file():
        vector, without = features_of_file(options, table, path), None
    else:
        without = table.row_of(options.query)
        vector = table.features[without]
    cosines, rows = nearest(table.features, vector, options.k, without=without)
    show(format_neighbours(table, cosines, rows))


def features_of_file(options: SearchOptions, table: FeatureFile, path: Path) -> Array:
    """Return the features of an image file under the encoder that produced the table.

    Raises:
        ValueError: --run is missing, or its encoder is a different one.
    """
    if options.run is None:
        raise ValueError(f"{path} is an image file: pass the run that made the features with --run")
    run = Run.open(options.run)
    device = resolve_device(options.device)
    module = load_module(run, table.settings.get("features", "")).to(device)
    if state_hash(module) != table.settings.get("weights"):
        raise ValueError(f"the features in {options.features} were not made by the current encoder of {options.run}")
    pixels = decode_named(path, run.config.resize_shorter)
    vector: Array = extract_features(module, pack([pixels]), run.config.augment).features[0].cpu().numpy()
    return vector


def format_neighbours(table: FeatureFile, cosines: Array, rows: Array) -> str:
    """Format the neighbours as a text table."""
    known = bool(np.any(table.labels >= 0))
    lines = [f"{'rank':>4}  {'cosine':>7}  {'id':>8}  {'class  ' if known else ''}name"]
    for rank, (cosine, row) in enumerate(zip(cosines.tolist(), rows.tolist(), strict=True), start=1):
        label = int(table.labels[row])
        kind = f"{one_line(table.classes[label]) if label >= 0 else '?'}  " if known else ""
        lines.append(f"{rank:>4}  {cosine:7.4f}  {table.ids[row]:>8}  {kind}{one_line(str(table.names[row]))}")
    return "\n".join(lines)
