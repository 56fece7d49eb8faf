"""Options of commands that take an encoder in place of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastclr.api import Run
from fastclr.commands.preset import shallow
from fastclr.training.scoring import EvaluateOptions


@dataclass(frozen=True, kw_only=True)
class BareOptions:
    """An encoder that was trained elsewhere, in place of a run."""

    encoder: Annotated[str | None, tyro.conf.arg(aliases=["--model"])] = None
    """In place of a run: name of a timm model, or `module:factory`. Default: as an encoder.safetensors says."""
    pretrained: bool = False
    """Take the weights that timm publishes for --encoder."""
    init: Annotated[str | None, tyro.conf.arg(aliases=["--initial-checkpoint"])] = None
    """Take the weights of a file, of PyTorch or safetensors, of any library."""
    init_prefix: str | None = None
    """Where in the file the weights lie, if there are several places."""
    download: bool = False
    """Fetch the weights that --pretrained asks for, when they are not on this machine."""
    size: Annotated[int | None, tyro.conf.arg(aliases=["--img-size"])] = None
    """Side of the images in pixels, for --encoder and --init. Default: the model's."""
    mean: tuple[float, ...] | None = None
    """Subtracted from the channels, on the scale [0, 1]. Default: that of timm's weights of the model."""
    std: tuple[float, ...] | None = None
    """Divides the channels. Default: likewise."""

    def given(self) -> dict[str, Any]:
        """Return what was asked for."""
        return {name: value for name, value in shallow(self).items() if value not in (None, False)}

    def open(self, run: Path | None, options: EvaluateOptions | None = None) -> Run:
        """Return the run in a folder, or the encoder that was asked for.

        Args:
            run: the folder, if one was given.
            options: of an evaluation, which say where an encoder's images are.

        Raises:
            ValueError: there are both, or neither.
        """
        given = self.given()
        if run is not None and given:
            flag = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{flag} is for an encoder without a run, but there is the run {run}: drop one of them")
        if run is not None:
            return Run(run)
        if not given:
            raise ValueError("give the folder of a run, or an encoder: --encoder NAME --pretrained, or --init FILE")
        places = {name: getattr(options, name, None) for name in ("data", "test_data", "labels")}
        return Run.of_encoder(**given, **{name: value for name, value in places.items() if value is not None})
