"""`fastclr augment-grid IMAGE...`: a contact sheet of images and their views."""

from __future__ import annotations

import tyro

from fastclr.grid import GridOptions, draw_grid


def main(arguments: list[str]) -> None:
    """Draw the sheet."""
    draw_grid(tyro.cli(GridOptions, args=arguments, prog="fastclr augment-grid"))
