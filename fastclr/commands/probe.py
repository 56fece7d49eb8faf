"""`fastclr probe RUN`: accuracy of a linear classifier on a run's frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastclr.commands.run_options import EvaluateOptions, Evaluation
from fastclr.device import uses_bf16
from fastclr.evaluate import ProbeResult, augmented_probe, lbfgs_probe, precomputed_probe, summary
from fastclr.evaluate.linear import check_schedule
from fastclr.evaluate.logistic import check_l2
from fastclr.sources.printable import show


@dataclass
class ProbeOptions:
    """Fit a linear classifier on frozen features of the training images, and score it on the test images."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    protocol: Literal["lbfgs", "precomputed", "augmented"] = "lbfgs"
    """`lbfgs`: logistic regression, with l2 selected on a tenth of the training images. `precomputed`: Adam on features
    computed once. `augmented`: SGD on random crops and flips; the encoder runs in every epoch."""
    seeds: int = 1
    """Number of seeds (0, 1, ...); mean and standard deviation are reported."""
    l2: float | None = None
    """lbfgs: use this regularisation per sample instead of selecting it."""
    epochs: int | None = None
    """precomputed, augmented: passes over the training images. Default: 500 and 100."""
    batch_size: int | None = None
    """precomputed, augmented: images per step. Default: 1000 and 512."""
    lr: float | None = None
    """precomputed, augmented: peak learning rate. Default: 0.01 and 0.1 batch_size / 256."""
    weight_decay: float | None = None
    """precomputed, augmented: weight decay. Default: 5e-6 and 0."""
    common: tyro.conf.OmitArgPrefixes[EvaluateOptions] = field(default_factory=EvaluateOptions)

    def settings(self) -> dict[str, Any]:
        """Return the given options as arguments for the protocol's function.

        Raises:
            ValueError: an option belongs to another protocol, or the number of seeds is invalid.
        """
        names = ("l2",) if self.protocol == "lbfgs" else ("epochs", "batch_size", "lr", "weight_decay")
        given = {
            name: value
            for name in ("l2", "epochs", "batch_size", "lr", "weight_decay")
            if (value := getattr(self, name)) is not None
        }
        if foreign := [name for name in given if name not in names]:
            option = foreign[0].replace("_", "-")
            raise ValueError(f"--{option} is not an option of --protocol {self.protocol}, which takes {list(names)}")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}")
        if self.l2 is not None and self.seeds > 1:
            raise ValueError("with --l2 all seeds give the same result: drop --seeds or --l2")
        check_l2(given.get("l2", 1.0))  # now rather than after minutes of feature extraction
        checked = {"epochs": 1, "batch_size": 1, "lr": 1.0, "weight_decay": 0.0}
        check_schedule(**{name: given.get(name, default) for name, default in checked.items()})
        return given


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it."""
    options = tyro.cli(ProbeOptions, args=arguments, prog="fastclr probe")
    settings = options.settings()
    evaluation = options.common.open(options.run)
    probe = build_probe(options.protocol, evaluation, settings)
    results = []
    for seed in range(options.seeds):
        results.append(probe(seed))
        if options.seeds > 1:
            evaluation.run.say(f"seed {seed}: {100 * results[-1].scores.top1:.2f}%")
    result = {"features": evaluation.layer, **summary(results), "classes": evaluation.classes}
    evaluation.run.add_result(evaluation.result_name(f"probe-{options.protocol}"), result)
    show(format_result(result))


def build_probe(name: str, evaluation: Evaluation, settings: dict[str, Any]) -> Callable[[int], ProbeResult]:
    """Return a function from a seed to a probe; features that do not depend on the seed are extracted once, here."""
    if name == "augmented":
        config, device = evaluation.config, evaluation.device
        place: dict[str, Any] = {"device": device, "autocast": uses_bf16(config.amp, device)}
        return lambda seed: augmented_probe(
            evaluation.encoder, evaluation.data, config.augment, seed=seed, **place, **settings
        )
    features = evaluation.features()
    if name == "precomputed":
        return lambda seed: precomputed_probe(features, seed=seed, device=evaluation.device, **settings)
    return lambda seed: lbfgs_probe(features, seed=seed, device=evaluation.device, say=evaluation.run.say, **settings)


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
