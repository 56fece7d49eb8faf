"""Pictures embedded in a page as data URIs."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

from fastclr.augment.contact_sheet import as_rgb
from fastclr.report.blocks import Picture
from fastclr.sources.decode import pillow

SHARP_UP_TO = 64  # pixels: smaller pictures are enlarged without blurring and stored losslessly
LARGEST = 144  # pixels per side; displayed at half that, for high-resolution screens


def to_bytes(view: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    """Convert normalised float ``[N, C, S, S]`` back to uint8 ``[N, S, S, C]``."""
    picture = view.float().cpu().permute(0, 2, 3, 1)
    if std is not None:
        picture = picture * torch.tensor(std)
    if mean is not None:
        picture = picture + torch.tensor(mean)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def embedded(pixels: Tensor, alt: str) -> Picture:
    """Return uint8 ``[H, W, C]`` as a picture with the alternative text `alt`; see `as_rgb`."""
    picture = pillow().fromarray(as_rgb(pixels.cpu()).contiguous().numpy())
    small = max(picture.size) <= SHARP_UP_TO
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(buffer, "JPEG", quality=82)
    kind = "png" if small else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(source, alt, small)
