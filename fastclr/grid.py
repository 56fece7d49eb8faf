"""The contact sheet of `fastclr augment-grid`: images, and what the augmentation makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.data.decode import decode_image, pillow
from fastclr.evaluate import evaluation_params
from fastclr.images import RaggedImages

GAP = 4  # pixels between the tiles
WHITE = 255


@dataclass(frozen=True)
class GridOptions:
    """Draw a contact sheet: each image in a row, first as an evaluation sees it, then its random views."""

    images: Annotated[list[Path], tyro.conf.Positional]
    """Image files."""
    augment: tyro.conf.OmitArgPrefixes[AugmentConfig] = field(default_factory=AugmentConfig)
    out: Path = Path("grid.png")
    """The PNG to write."""
    views: int = 8
    """Views of each image."""
    seed: int = 0
    """Seed of the randomness."""
    epoch: int = 0
    """Epoch of the randomness."""
    show_params: bool = False
    """Print the parameters of the views."""


def contact_sheet(
    images: Sequence[Tensor], config: AugmentConfig, views: int = 8, seed: int = 0, epoch: int = 0
) -> tuple[Tensor, AugmentParams]:
    """Draw images and their views; image i has the id i, and a normalisation is left out.

    Args:
        images: uint8 ``[H, W, 3]`` on the CPU, of any sizes.
        config: the augmentation.
        views: number of views V.
        seed: 0 to 2^63 - 1.
        epoch: 0 to 2^32 - 1.

    Returns:
        uint8 ``[rows, columns, 3]``: a row of V + 1 tiles per image; and the parameters of the views.

    Raises:
        TypeError: an image is not uint8.
        ValueError: there are no images, or an argument is out of range.
    """
    if not images:
        raise ValueError("there are no images to draw")
    sizes = torch.tensor([image.shape[:2] for image in images])
    counts = 3 * sizes.prod(1)
    batch = RaggedImages(torch.cat([image.reshape(-1) for image in images]), counts.cumsum(0) - counts, sizes)
    config = dataclasses.replace(config, mean=None, std=None)
    augment = SimCLRAugment(config, views, seed, torch.uint8)
    params = augment.params(torch.arange(len(images)), epoch, sizes)
    tiles = torch.cat([augment.apply(batch, evaluation_params(sizes, config.size)), augment.apply(batch, params)])
    step = config.size + GAP
    sheet = torch.full((len(images) * step - GAP, len(tiles) * step - GAP, 3), WHITE, dtype=torch.uint8)
    for column, view in enumerate(tiles):
        for row, tile in enumerate(view):
            sheet[row * step :, column * step :][: config.size, : config.size] = tile.permute(1, 2, 0)
    return sheet, params


def draw_grid(options: GridOptions) -> None:
    """Read the images, write the sheet, and print what was written."""
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end with .png, got {options.out}")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out is in a folder that does not exist: {options.out.absolute().parent}")
    images = [torch.from_numpy(decode_image(path).copy()) for path in options.images]
    sheet, params = contact_sheet(images, options.augment, options.views, options.seed, options.epoch)
    if options.show_params:
        print(params)
    pillow().fromarray(sheet.numpy()).save(options.out)
    print(f"{options.out}: {len(images)} images, {options.views} views of each, {options.augment.size} pixels")
