"""Options shared by the commands that take a finished run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fastclr.commands.threads import use_stored
from fastclr.data import Splits
from fastclr.device import resolve_device
from fastclr.environment import read_environment
from fastclr.evaluate import Features
from fastclr.evaluate.scores import CONFUSION_UP_TO
from fastclr.methods.head_layers import feature_module
from fastclr.parallel import check_single_process
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features
from fastclr.training.run import Run


@dataclass(frozen=True)
class Evaluation:
    """A run to evaluate, its images, and the module from images to features."""

    run: Run
    config: PretrainConfig
    data: Splits
    encoder: nn.Module
    layer: str

    @property
    def device(self) -> torch.device:
        """The device to compute on."""
        return resolve_device(self.config.device)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, if there are few enough to store a confusion matrix."""
        names = self.data.train.classes
        return list(names) if len(names) <= CONFUSION_UP_TO else None

    def features(self) -> Features:
        """Return the features of the labelled images."""
        return run_features(self.encoder, self.data, self.config)

    def result_name(self, kind: str) -> str:
        """Return the name of a result in ``results.json``, with the layer appended for features other than h."""
        return kind if self.layer == "h" else f"{kind}-{self.layer}"


@dataclass
class EvaluateOptions:
    """Options shared by the evaluation commands."""

    features: str = "h"
    """Which features: `h` (the encoder's), `z` (the projection), or `1`, `2`, `3` (a layer of the head)."""
    data: str | None = None
    """Where the images are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""

    def open(self, folder: Path) -> Evaluation:
        """Load a run's model and its images; an invalid layer is rejected before the images are read."""
        check_single_process("an evaluation")
        run = Run.open(folder)
        data, test_data = self.data or run.config.data, self.test_data or run.config.test_data
        config = dataclasses.replace(run.config, data=data, test_data=test_data, device=self.device)
        resolve_device(self.device)
        # not every method has a projection head
        encoder = run.load_encoder() if self.features == "h" else feature_module(run.load_model(), self.features)
        return Evaluation(run, config, load_data(config), encoder, self.features)


@dataclass
class TrainingOptions:
    """The device, images and result folder of a training."""

    data: str | None = None
    """Where the images are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""
    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""
    name: str | None = None
    """Folder for the result, inside the run's. Default: derived from the labels and the student."""
    overwrite: bool = False
    """Replace an existing result of that name, or a training with other settings that was stopped."""

    def open(self, folder: Path) -> tuple[Run, Splits]:
        """Return a run with these options in place of its own, and its images."""
        run = Run.open(folder)
        chosen = {"device": self.device, "deterministic": self.deterministic or run.config.deterministic}
        chosen |= {"data": self.data or run.config.data, "test_data": self.test_data or run.config.test_data}
        run = Run(run.folder, dataclasses.replace(run.config, **chosen))  # type: ignore[arg-type]
        if run.config.deterministic:
            use_stored(read_environment(folder))
        if self.name is not None and Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a folder inside {folder}, got {self.name!r}")
        return run, load_data(run.config)
