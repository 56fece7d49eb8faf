"""The commands behind the command line; their options are dataclasses that tyro reads."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.config import PRESETS, PretrainConfig
from fastclr.demo import DemoOptions, run_demo
from fastclr.evaluate import Features, knn_accuracy, labelled_features, probe_accuracy
from fastclr.grid import GridOptions, draw_grid
from fastclr.pretrain import load_data, pretrain_in
from fastclr.run import Run


@dataclass
class PretrainOptions:
    """Pretrain an encoder with SimCLR."""

    config: tyro.conf.OmitArgPrefixes[PretrainConfig]
    preset: str | None = None
    """Start from the values of a preset: demo, cifar10 or imagenet."""
    out: Path | None = None
    """Folder of the run. Default: runs/ and the preset's name, or the data's."""
    resume: Path | None = None
    """Go on with the run in this folder, from its last checkpoint."""


@dataclass
class EvaluateOptions:
    """What the evaluation commands share."""

    data: str | None = None
    """Where the images are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if there is one), or a torch device."""

    def features(self, folder: Path) -> tuple[Run, Features]:
        """Return a run and the features of its images."""
        run = Run.open(folder)
        data, test_data = self.data or run.config.data, self.test_data or run.config.test_data
        config = dataclasses.replace(run.config, data=data, test_data=test_data, device=self.device)
        return run, labelled_features(run.load_encoder(), load_data(config), config)


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


@dataclass
class ProbeOptions:
    """Fit a linear classifier on frozen features of the training images, and score it on the test images."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    l2: float = 1e-3
    """Regularisation per sample."""
    common: tyro.conf.OmitArgPrefixes[EvaluateOptions] = field(default_factory=EvaluateOptions)


def pretrain(arguments: list[str]) -> None:
    """`fastclr pretrain`: a new run, or `--resume` of one."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--resume", type=Path)
    chosen, _ = first.parse_known_args(arguments)
    if chosen.preset is not None and chosen.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {chosen.preset!r}")
    if chosen.preset is not None and chosen.resume is not None:
        raise ValueError("--resume takes the configuration of the run: drop --preset")
    # the defaults that the help shows, and that the other options change
    base = Run.open(chosen.resume).config if chosen.resume else PRESETS.get(chosen.preset, PretrainConfig())
    options = tyro.cli(PretrainOptions, args=arguments, default=PretrainOptions(base), prog="fastclr pretrain")
    if options.resume is not None and options.out not in (None, options.resume):
        raise ValueError(f"--resume goes on in {options.resume}: drop --out {options.out}")
    name = options.preset or Path(options.config.data).name.partition(".")[0]
    folder = options.resume or options.out or Path("runs") / name
    try:
        run = pretrain_in(folder, options.config, resume=options.resume is not None)
    except KeyboardInterrupt:
        print(f"\nfastclr: stopped; go on with: fastclr pretrain --resume {folder}", file=sys.stderr)
        raise
    print(f"done: {run.folder} (evaluate it with: fastclr knn {run.folder}; fastclr probe {run.folder})")


def knn(arguments: list[str]) -> None:
    """`fastclr knn RUN`: kNN accuracy of a run's encoder."""
    options = tyro.cli(KnnOptions, args=arguments, prog="fastclr knn")
    run, features = options.common.features(options.run)
    k = run.config.knn_k if options.k is None else options.k
    temperature = run.config.knn_temperature if options.temperature is None else options.temperature or None
    accuracy = knn_accuracy(features, k=k, temperature=temperature)
    count = len(features.test)
    run.add_result("knn", {"accuracy": accuracy, "k": k, "temperature": temperature, "test_images": count})
    print(f"kNN accuracy {100 * accuracy:.2f}% (k={k}, temperature={temperature}, {count} test images)")


def probe(arguments: list[str]) -> None:
    """`fastclr probe RUN`: accuracy of a linear classifier on a run's frozen features."""
    options = tyro.cli(ProbeOptions, args=arguments, prog="fastclr probe")
    run, features = options.common.features(options.run)
    accuracy = probe_accuracy(features, l2=options.l2)
    count = len(features.test)
    run.add_result("probe", {"accuracy": accuracy, "l2": options.l2, "test_images": count})
    print(f"linear probe accuracy {100 * accuracy:.2f}% (l2={options.l2}, {count} test images)")


def demo(arguments: list[str]) -> None:
    """`fastclr demo`: a pretraining on the built-in shapes, evaluated against its baselines."""
    run_demo(tyro.cli(DemoOptions, args=arguments, prog="fastclr demo"))


def augment_grid(arguments: list[str]) -> None:
    """`fastclr augment-grid IMAGE...`: a contact sheet of images and their views."""
    draw_grid(tyro.cli(GridOptions, args=arguments, prog="fastclr augment-grid"))
