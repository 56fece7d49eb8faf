"""`fastclr export RUN`: export a run's encoder for use without fastclr."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.commands.preset import shallow
from fastclr.sources.printable import show
from fastclr.transfer.export import Format


@dataclass
class ExportOptions:
    """Write the encoder of a run to one file, with a model card next to it, and print how to load it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    format: Format | None = None
    """Both towers of a method of images and texts, with the tokenizer, in a folder: `towers`. Of the encoder alone,
    weights only: `safetensors` for timm, `timm` the same as a folder that it loads by its path and hubs know, `hub` as
    a folder that `fastclr.HubEncoder` loads, of any width and stem, `torchvision` for its ResNets. Including the
    computation: `pt2` (torch.export), `onnx`, `torchscript` (deprecated by PyTorch). Default: as the suffix of --out
    says; without one `safetensors` for an encoder that timm builds, `pt2` for any other."""
    out: Path | None = None
    """The file, or folder. Default: export/FORMAT/encoder.SUFFIX in the run's folder, or export/FORMAT."""
    check: bool = True
    """Load the file in a fresh process, without fastclr but for `hub`, and compare the features."""
    licence: str | None = None
    """Licence of the weights, for the model card."""
    overwrite: bool = False
    """Replace an existing file."""


def main(arguments: list[str]) -> None:
    """Export, and print the lines that load the file."""
    options = tyro.cli(ExportOptions, args=arguments, prog="fastclr export")
    done = Run(options.run).export(**{name: value for name, value in shallow(options).items() if name != "run"})
    files = [done.path] if done.path.is_file() else [path for path in done.path.iterdir() if path != done.card]
    size = sum(path.stat().st_size for path in files)
    show(f"{done.path} ({size / 1e6:.1f} MB), model card {done.card}")
    if done.difference is not None:
        where = "a fresh process" if options.format == "hub" else "a process without fastclr"
        show(f"checked in {where}: features differ by {done.difference:.1e} of the largest one")
    if done.lines is None:
        show("timm cannot build this encoder: this file holds only weights; pt2 and onnx also hold the computation")
        return
    if done.path.is_dir():
        show("load them with these lines, in that folder; cosines compare an image and a text:")
    elif "\n" in done.lines:
        show("timm and torchvision have no named encoder of this width or stem; load it with these lines:")
    else:
        show("load it with this line:")
    show(done.lines)
