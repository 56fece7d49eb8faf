"""Draws the memory of the loss over the batch size as an SVG that reads on light and on dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from memory_curve import DIM, DTYPE, Curve
from report_plots import digest_of

from fastclr.bench.rows import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 840, 430
BOX = (66 / WIDTH, 58 / HEIGHT, 730 / WIDTH, 298 / HEIGHT)  # of the axes: left, bottom, width, height
FEWEST, MOST = 256, 2**18  # images
GB, TOP_GB, LIMIT_GB = 1e9, 100, 80
TITLE = "Peak memory of the contrastive loss"
INK, QUIET, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
# library -> its name in the picture, its colour on white and on black, GB at which its label stands, and on which side
SHOWN: dict[str, tuple[str, str, str, float, str]] = {
    "pytorch-metric-learning": ("pytorch-metric-learning", "#8250df", "#bc8cff", 54, "right"),
    "lightly": ("lightly", "#9a6700", "#d9a520", 68, "left"),
    "pytorch": ("plain PyTorch", "#1a7f37", "#56d364", 48, "left"),
    "pytorch-compile": ("torch.compile", "#57606a", "#9da7b4", 50, "right"),
    OURS: ("fastclr", "#cf222e", "#ff7b72", 0, "above"),
}
# colours on white -> on black
DARK = {INK: "#e6edf3", QUIET: "#9da7b3", GRID: "#30363d", PAPER: "#0d1117"}
DARK |= {light: dark for _, light, dark, _, _ in SHOWN.values()}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fastclr",
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": GRID,
    "xtick.labelcolor": QUIET,
    "ytick.left": False,
    "ytick.labelcolor": QUIET,
    "lines.solid_capstyle": "round",
}
FONT = 'text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }'


def memory_svg(found: Mapping[str, Curve]) -> str:
    """Return the picture of some curves."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    file = io.StringIO()
    with context(["default", STYLE]):
        figure = Figure((WIDTH / 72, HEIGHT / 72), facecolor=PAPER)
        axes = figure.add_axes(BOX, frameon=False)
        axes.set(xlim=(FEWEST, MOST), ylim=(0, TOP_GB), xlabel="batch size: images, two views of each (logarithmic)")
        axes.set_xscale("log", base=2)
        ticks = [4**power for power in range(4, 10)]
        axes.set_xticks(ticks, [f"{images:,}" for images in ticks])
        axes.minorticks_off()
        below = f"NT-Xent, forward and backward, D = {DIM}, {DTYPE}. Dots: bytes counted on a CPU; curves: their power"
        figure.text(BOX[0], 1 - 30 / HEIGHT, f"{TITLE}, GB", size=17, weight="bold")
        figure.text(BOX[0], 1 - 50 / HEIGHT, f"{below} of the batch.", size=12, color=QUIET)
        axes.axhline(LIMIT_GB, color=INK, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.text(1400, LIMIT_GB + 2.5, f"{LIMIT_GB} GB: the memory of a large GPU")
        for name in SHOWN:
            if name in found:
                draw(axes, found[name])
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return finished(file.getvalue(), found)


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


def finished(svg: str, found: Mapping[str, Curve]) -> str:
    """Return matplotlib's SVG without what a page does not need, with a text alternative and colours for dark pages."""
    dark = "".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {black} !important }}\n'
        for light, black in DARK.items()
        for kind in ("fill", "stroke")
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {WIDTH} '
    head += f'{HEIGHT}" role="img" aria-labelledby="title about">\n'
    head += f'<title id="title">{TITLE} over the batch size</title>\n'
    head += f'<desc id="about">{description(found)}</desc>\n<!-- digest:{digest_of(memory_shown(found))} -->\n'
    head += f"<style>\n{FONT}\n@media (prefers-color-scheme: dark) {{\n{dark}}}\n</style>"
    inside = svg.partition("<svg ")[2].partition(">")[2]
    inside = re.sub(r"\s*<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    return head + "\n".join(line.rstrip() for line in inside.splitlines()) + "\n"


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
