"""`fastclr knn RUN`: kNN accuracy of a run's encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.commands.run_options import EvaluateOptions
from fastclr.evaluate import knn_scores
from fastclr.sources.printable import show


@dataclass
class KnnOptions:
    """Classify the test images by their nearest training images, on frozen features."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    k: tuple[int, ...] = ()
    """Number of neighbours that vote; several values are scored in one search. Default: as in the run."""
    temperature: float | None = None
    """Votes are weighted by exp(cosine/temperature); 0: all equally. Default: as in the run."""
    common: tyro.conf.OmitArgPrefixes[EvaluateOptions] = field(default_factory=EvaluateOptions)


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it; the first k provides the stored accuracy."""
    options = tyro.cli(KnnOptions, args=arguments, prog="fastclr knn")
    if options.k and min(options.k) < 1:
        raise ValueError(f"k must be at least 1, got {' '.join(map(str, options.k))}")
    if options.temperature is not None and options.temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {options.temperature}")
    evaluation = options.common.open(options.run)
    config = evaluation.run.config
    temperature = config.knn_temperature if options.temperature is None else options.temperature or None
    known = int((evaluation.data.train.labels >= 0).sum())
    if known and options.k and max(options.k) > known:
        raise ValueError(f"k must be between 1 and the {known} labelled training images, got {max(options.k)}")
    features = evaluation.features()
    ks = options.k or (min(config.knn_k, known),)
    scores = knn_scores(features, ks, temperature=temperature, device=evaluation.device)
    result = {
        "features": evaluation.layer,
        "k": ks[0],
        "temperature": temperature,
        **scores[ks[0]].as_json(),
        "by_k": {str(k): each.top1 for k, each in scores.items()},
        "train_images": len(features.train),
        "test_images": len(features.test),
        "classes": evaluation.classes,
    }
    evaluation.run.add_result(evaluation.result_name("knn"), result)
    for k, each in scores.items():
        top5 = "" if each.top5 is None else f", top-5 {100 * each.top5:.2f}%"
        about = f"k={k}, temperature={temperature}, features {evaluation.layer}, {len(features.test)} test images"
        show(f"kNN accuracy {100 * each.top1:.2f}%{top5} ({about})")
