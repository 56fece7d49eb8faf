"""`fastclr knn RUN`: kNN accuracy of a run's encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.shared import EvaluateOptions
from fastclr.evaluate import knn_accuracy


@dataclass
class KnnOptions:
    """Classify the test images by their nearest training images, on frozen features."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    k: int | None = None
    """Neighbours that vote. Default: as in the run."""
    temperature: float | None = None
    """Votes weigh exp(cosine/temperature); 0: all the same. Default: as in the run."""
    common: tyro.conf.OmitArgPrefixes[EvaluateOptions] = field(default_factory=EvaluateOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, print it."""
    options = tyro.cli(KnnOptions, args=arguments, prog="fastclr knn")
    run, features = options.common.features(options.run)
    k = run.config.knn_k if options.k is None else options.k
    temperature = run.config.knn_temperature if options.temperature is None else options.temperature or None
    accuracy = knn_accuracy(features, k=k, temperature=temperature)
    count = len(features.test)
    run.add_result("knn", {"accuracy": accuracy, "k": k, "temperature": temperature, "test_images": count})
    print(f"kNN accuracy {100 * accuracy:.2f}% (k={k}, temperature={temperature}, {count} test images)")
