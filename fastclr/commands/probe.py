"""`fastclr probe RUN`: accuracy of a linear classifier on a run's frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastclr.commands.bare_options import BareOptions
from fastclr.commands.preset import shallow
from fastclr.sources.printable import show
from fastclr.training.scoring import ProbeOptions


@dataclass
class Command:
    """Fit a linear classifier on frozen features of the training images, and score it on the test images."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a run; or --encoder or --init in its place, with --data. Their result is shown, and stored nowhere."""
    bare: tyro.conf.OmitArgPrefixes[BareOptions] = field(default_factory=BareOptions)
    options: tyro.conf.OmitArgPrefixes[ProbeOptions] = field(default_factory=ProbeOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it."""
    command = tyro.cli(Command, args=arguments, prog="fastclr probe")
    options = command.options
    show(format_result(command.bare.open(command.run, options).probe(**shallow(options))))


def format_result(result: dict[str, Any]) -> str:
    """Format a result as one line."""
    spread = "" if result["accuracy_std"] is None else f" +- {100 * result['accuracy_std']:.2f}"
    top5 = "" if result["top5"] is None else f", top-5 {100 * result['top5']:.2f}%"
    details = [f"protocol {result['protocol']}", f"features {result['features']}"]
    if result["protocol"] == "lbfgs":
        values = [seed.get("l2", result["settings"]["l2"]) for seed in result["seeds"]]
        details.append("l2 " + ", ".join(f"{value:.3g}" for value in values))
    else:
        details.append(f"last of {result['settings']['epochs']} epochs")
    if len(result["seeds"]) > 1:
        details.append(f"{len(result['seeds'])} seeds")
    details.append(f"{result['test_images']} test images")
    return f"linear probe accuracy {100 * result['accuracy']:.2f}%{spread}{top5} ({', '.join(details)})"
