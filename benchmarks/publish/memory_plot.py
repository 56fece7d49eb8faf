"""Draws the memory of the loss over the batch size as an SVG that reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from memory_curve import DIM, DTYPE, Curve
from picture import INK, QUIET, finished, picture
from report_plots import digest_of

from fastclr.bench.rows import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 840, 430
BOX = (66 / WIDTH, 58 / HEIGHT, 730 / WIDTH, 298 / HEIGHT)  # of the axes: left, bottom, width, height
FEWEST, MOST = 256, 2**18  # images
GB, TOP_GB, LIMIT_GB = 1e9, 100, 80
TITLE = "Peak memory of the contrastive loss"
# library -> its name in the picture, its colour on white and on black, GB at which its label stands, and on which side
SHOWN: dict[str, tuple[str, str, str, float, str]] = {
    "pytorch-metric-learning": ("pytorch-metric-learning", "#8250df", "#bc8cff", 54, "right"),
    "lightly": ("lightly", "#9a6700", "#d9a520", 68, "left"),
    "pytorch": ("plain PyTorch", "#1a7f37", "#56d364", 48, "left"),
    "pytorch-compile": ("torch.compile", "#57606a", "#9da7b4", 50, "right"),
    OURS: ("fastclr", "#cf222e", "#ff7b72", 0, "above"),
}
COLOURS = {light: dark for _, light, dark, _, _ in SHOWN.values()}  # on white -> on black


def memory_svg(found: Mapping[str, Curve]) -> str:
    """Return the picture of some curves."""
    with picture(WIDTH, HEIGHT) as (figure, svg):
        axes = figure.add_axes(BOX, frameon=False)
        axes.set(xlim=(FEWEST, MOST), ylim=(0, TOP_GB), xlabel="batch size: images, two views of each (logarithmic)")
        axes.set_xscale("log", base=2)
        ticks = [4**power for power in range(4, 10)]
        axes.set_xticks(ticks, [f"{images:,}" for images in ticks])
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.tick_params(axis="y", left=False)
        below = f"NT-Xent, forward and backward, D = {DIM}, {DTYPE}. Dots: bytes counted on a CPU; curves: their power"
        figure.text(BOX[0], 1 - 30 / HEIGHT, f"{TITLE}, GB", size=17, weight="bold")
        figure.text(BOX[0], 1 - 50 / HEIGHT, f"{below} of the batch.", size=12, color=QUIET)
        axes.axhline(LIMIT_GB, color=INK, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.text(1400, LIMIT_GB + 2.5, f"{LIMIT_GB} GB: the memory of a large GPU")
        for name in SHOWN:
            if name in found:
                draw(axes, found[name])
    return finished(svg[0], f"{TITLE} over the batch size", description(found), digest_of(memory_shown(found)), COLOURS)


def draw(axes: Axes, curve: Curve) -> None:
    """Draw a curve with its dots and its label."""
    shown, colour, _, height, side = SHOWN[curve.name]
    wide, dot = (4.0, 8.0) if curve.name == OURS else (2.2, 6.0)
    images = np.geomspace(FEWEST, min(MOST, curve.within(TOP_GB * GB)), 121)
    curved: dict[str, Any] = {"color": colour, "clip_on": False}
    axes.plot(images, [curve.at(n) / GB for n in images], linewidth=wide, gid=f"curve-{curve.name}", **curved)
    counted = [(n, count / GB) for n, count in curve.points if n >= FEWEST]
    axes.plot([n for n, _ in counted], [y for _, y in counted], "o", markersize=dot, **curved)
    label: dict[str, Any] = {"color": colour, "weight": "bold", "textcoords": "offset points", "va": "center"}
    if side == "above":
        text = f"{shown}: {curve.at(MOST) / GB:.1f} GB at {MOST:,}"
        axes.annotate(text, (MOST, curve.at(MOST) / GB), (-4, 16), ha="right", **label)
        return
    limit = f"{curve.within(LIMIT_GB * GB):,} in {LIMIT_GB} GB"
    away, joint, align = (-26, ": ", "right") if side == "left" else (26, "\n", "left")
    line = {"arrowstyle": "-", "color": colour, "linewidth": 2.2, "shrinkA": 3, "shrinkB": 0}
    axes.annotate(
        f"{shown}{joint}{limit}", (curve.within(height * GB), height), (away, 0), ha=align, arrowprops=line, **label
    )


def memory_shown(found: Mapping[str, Curve]) -> dict[str, list[list[int]]]:
    """Return the counts in the picture by library."""
    return {name: [list(point) for point in found[name].points] for name in SHOWN if name in found}


def description(found: Mapping[str, Curve]) -> str:
    """Return the picture in words."""
    limits = [
        f"{SHOWN[name][0]} reaches {LIMIT_GB} GB at {curve.within(LIMIT_GB * GB):,} images"
        for name, curve in found.items()
        if name in SHOWN and curve.degree > 1
    ]
    own = f"; fastclr needs {found[OURS].at(MOST) / GB:.1f} GB at {MOST:,}" if OURS in found else ""
    return "; ".join(limits) + own
