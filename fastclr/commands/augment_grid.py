"""`fastclr augment-grid IMAGE...`: a contact sheet of images and their views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from fastclr.augment import AugmentConfig
from fastclr.augment.contact_sheet import contact_sheet
from fastclr.sources.decode import decode_named, pillow
from fastclr.sources.printable import show
from fastclr.sources.reading import Reading


def main(arguments: list[str]) -> None:
    """Draw the sheet."""
    draw_grid(tyro.cli(GridOptions, args=arguments, prog="fastclr augment-grid"))


@dataclass(frozen=True)
class GridOptions:
    """Draw a contact sheet with one image per row: first as seen in evaluation, then its random views."""

    images: Annotated[list[Path], tyro.conf.Positional]
    """Image files."""
    augment: tyro.conf.OmitArgPrefixes[AugmentConfig] = field(default_factory=AugmentConfig)
    out: Path = Path("grid.png")
    """The PNG to write."""
    views: int = 8
    """Views per image."""
    seed: int = 0
    """Random seed of the views."""
    epoch: int = 0
    """Epoch for which to draw the views."""
    show_params: bool = False
    """Print the parameters of the views."""


def draw_grid(options: GridOptions) -> None:
    """Read the images, write the sheet, and print a summary."""
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end with .png, got {options.out}")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out is in a folder that does not exist: {options.out.absolute().parent}")
    reading = Reading(options.augment.channels)
    images = [torch.from_numpy(decode_named(path, None, reading).copy()) for path in options.images]
    sheet, params = contact_sheet(images, options.augment, options.views, options.seed, options.epoch)
    if options.show_params:
        show(params)
    pillow().fromarray(sheet.numpy()).save(options.out)
    show(f"{options.out}: {len(images)} images, {options.views} views of each, {options.augment.size} pixels")
