"""What fine-tuning and distillation can be told about the device, the images and the folder of their result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastclr.data import Splits
from fastclr.environment import use_stored_threads
from fastclr.training.build import load_data
from fastclr.training.run import Run


@dataclass(frozen=True, kw_only=True)
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

    def open(self, run: Run, images: Splits | None = None) -> tuple[Run, Splits]:
        """Return a run with these options in place of its own, and its images.

        Args:
            run: the run.
            images: those of the run, if they are at hand.
        """
        if self.name is not None and Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a folder inside {run.folder}, got {self.name!r}")
        data, test_data = self.data or run.config.data, self.test_data or run.config.test_data
        same = (data, test_data) == (run.config.data, run.config.test_data)
        chosen: dict[str, Any] = {"device": self.device, "data": data, "test_data": test_data}
        chosen |= {"deterministic": self.deterministic or run.config.deterministic}
        run = Run(run.folder, dataclasses.replace(run.config, **chosen))
        if run.config.deterministic:
            use_stored_threads(run.folder)
        return run, images if images and same else load_data(run.config)
