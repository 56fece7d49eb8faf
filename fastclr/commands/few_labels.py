"""What the commands that train on few labels share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fastclr.data import Splits
from fastclr.parallel import check_single_process
from fastclr.run import Run
from fastclr.training import load_data


@dataclass
class TrainingOptions:
    """Where to train, on what, and where the result goes."""

    data: str | None = None
    """Where the images are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if there is one), or a torch device."""
    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""
    name: str | None = None
    """Folder of the result inside the run's. Default: made from the labels and the student."""
    overwrite: bool = False
    """Replace a result of that name."""

    def open(self, folder: Path) -> tuple[Run, Splits]:
        """Return a run with these options in place of its own, and its images."""
        check_single_process("a training on labels")
        run = Run.open(folder)
        chosen = {"device": self.device, "deterministic": self.deterministic or run.config.deterministic}
        chosen |= {"data": self.data or run.config.data, "test_data": self.test_data or run.config.test_data}
        run = Run(run.folder, dataclasses.replace(run.config, **chosen))  # type: ignore[arg-type]
        if self.name is not None and Path(self.name).name != self.name:
            raise ValueError(f"name must be that of a folder inside {folder}, got {self.name!r}")
        return run, load_data(run.config)
