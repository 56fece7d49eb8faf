"""What fine-tuning and distillation can be told about the device, the images and the folder of their result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fastclr.data import Splits
from fastclr.environment import use_stored_threads
from fastclr.training.images import ImageOptions
from fastclr.training.run import Run


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ImageOptions):
    """The device, images and result folder of a training."""

    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""
    name: str | None = None
    """Folder for the result, inside the run's. Default: derived from the labels and the student."""
    overwrite: bool = False
    """Replace an existing result of that name, or a training with other settings that was stopped."""

    def open(self, run: Run, images: Splits | None = None) -> tuple[Run, Splits]:
        """Return a run with these options in place of its own, and its images.

        Args:
            run: the run.
            images: those of the run, if they are at hand.
        """
        if self.name is not None and Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a folder inside {run.folder}, got {self.name!r}")
        deterministic = self.deterministic or run.config.deterministic
        if deterministic:
            use_stored_threads(run.folder)
        found = self.load(run, images)
        return Run(run.folder, dataclasses.replace(self.config_for(run), deterministic=deterministic)), found
