"""`fastclr probe RUN`: accuracy of a linear classifier on a run's frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.shared import EvaluateOptions
from fastclr.evaluate import probe_accuracy


@dataclass
class ProbeOptions:
    """Fit a linear classifier on frozen features of the training images, and score it on the test images."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    l2: float = 1e-3
    """Regularisation per sample."""
    common: tyro.conf.OmitArgPrefixes[EvaluateOptions] = field(default_factory=EvaluateOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, print it."""
    options = tyro.cli(ProbeOptions, args=arguments, prog="fastclr probe")
    run, features = options.common.features(options.run)
    accuracy = probe_accuracy(features, l2=options.l2)
    count = len(features.test)
    run.add_result("probe", {"accuracy": accuracy, "l2": options.l2, "test_images": count})
    print(f"linear probe accuracy {100 * accuracy:.2f}% (l2={options.l2}, {count} test images)")
