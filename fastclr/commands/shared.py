"""What the commands that evaluate a run share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fastclr.evaluate import Features, labelled_features
from fastclr.run import Run
from fastclr.training import load_data


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
