"""`fastclr knn RUN`: kNN accuracy of a run's encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.bare_options import BareOptions
from fastclr.commands.preset import shallow
from fastclr.sources.printable import show
from fastclr.training.scoring import KnnOptions


@dataclass
class Command:
    """Classify the test images by their nearest training images, on frozen features."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a run; or --encoder or --init in its place, with --data. Their result is shown, and stored nowhere."""
    bare: tyro.conf.OmitArgPrefixes[BareOptions] = field(default_factory=BareOptions)
    options: tyro.conf.OmitArgPrefixes[KnnOptions] = field(default_factory=KnnOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it; the first k provides the stored accuracy."""
    command = tyro.cli(Command, args=arguments, prog="fastclr knn")
    options = command.options
    result = command.bare.open(command.run, options).knn(**shallow(options))
    for k, accuracy in result["by_k"].items():
        top5 = "" if result["top5_by_k"][k] is None else f", top-5 {100 * result['top5_by_k'][k]:.2f}%"
        about = f"k={k}, temperature={result['temperature']}, features {result['features']}"
        show(f"kNN accuracy {100 * accuracy:.2f}%{top5} ({about}, {result['test_images']} test images)")
