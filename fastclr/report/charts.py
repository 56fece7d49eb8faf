"""Charts by matplotlib as SVG, whose colours are the page's variables: one drawing for light and dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastclr.report.blocks import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44
MOST_POINTS = 300  # per line; more are averaged in groups
LARGEST = 1e100  # larger values overflow on their way to a place on the axis
LINE = "#b0b0b0"  # matplotlib's colour of grids
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,
    "font.size": 13,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": LINE,
    "axes.labelpad": 7,
    "axes.xmargin": 0.0,
    "axes.ymargin": 0.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "xtick.color": LINE,
    "xtick.labelcolor": "black",
    "ytick.left": False,
    "ytick.minor.left": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.markeredgewidth": 0.0,
    "lines.markersize": 5.5,
}


@dataclass(frozen=True)
class Series:
    """A line: its name and its points; non-finite points are dropped. Colours repeat from 10 on."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dots: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Return the points that can be drawn, averaged in groups if there are too many."""
        finite = [(a, b) for a, b in zip(self.x, self.y, strict=True) if abs(a) < LARGEST and abs(b) < LARGEST]
        size = -(-len(finite) // MOST_POINTS)
        if size <= 1:
            return finite
        groups = [finite[start : start + size] for start in range(0, len(finite), size)]
        return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]


def line_chart(
    title: str,
    lines: Sequence[Series],
    x_label: str,
    caption: str,
    *,
    from_zero: bool = False,
    log: bool = False,
    unit: str = "",
) -> Figure:
    """Return a figure with lines over a common axis; an empty one if there are no finite points.

    Args:
        title: heading of the figure.
        lines: the series.
        x_label: label of the horizontal axis.
        caption: what the figure shows.
        from_zero: start the vertical axis at 0.
        log: use a logarithmic vertical axis; values that are not positive are dropped.
        unit: appended to the numbers on the vertical axis.
    """
    drawn = [(line, points) for line in lines if (points := [p for p in line.points() if not log or p[1] > 0])]
    if not drawn:
        return Figure(title, caption)
    alt = f"{title}. " + " ".join(describe_line(line.name, points, unit) for line, points in drawn)
    with canvas(alt, "round_numbers") as (axes, svg):
        from matplotlib.ticker import MaxNLocator

        for line, points in drawn:
            marker = "o" if line.dots or len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=f"C{line.colour}", marker=marker, clip_on=False)
        if log:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            if from_zero:
                axes.update_datalim([(drawn[0][1][0][0], 0.0)])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))  # steps and epochs are whole
        axes.xaxis.set_major_formatter(lambda value, _: format_tick(value))
        axes.yaxis.set_major_formatter(lambda value, _: format_tick(value) + unit)
        if len(xs := {x for _, points in drawn for x, _ in points}) > 1:
            axes.set_xlim(min(xs), max(xs))
        axes.set_xlabel(x_label)
        for grid in axes.get_ygridlines():
            grid.set_clip_on(False)  # or half of the last is cut off
    legend = [(line.name, line.colour) for line, _ in drawn] if len(drawn) > 1 else []
    return figure_of(svg[0], title, caption, alt, legend)


def scatter_chart(title: str, groups: Sequence[tuple[str, Sequence[tuple[float, float]]]], caption: str) -> Figure:
    """Return a scatter plot without axes; a group with an empty name is drawn in grey, beneath the others."""
    names = [name for name, _ in groups if name]
    legend = [(name, index) for index, name in enumerate(names)] if len(names) > 1 else []
    listed = f" Classes: {', '.join(names)}." if legend else ""
    alt = f"{title}: {sum(len(group) for _, group in groups)} points.{listed}"
    with canvas(alt, "data") as (axes, svg):
        axes.set_position((0.02, 0.02, 0.96, 0.96))
        axes.set_axis_off()
        for name, points in sorted((group for group in groups if group[1]), key=lambda group: group[0] != ""):
            colour = f"C{names.index(name)}" if name else LINE
            axes.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.8, clip_on=False)
    return figure_of(svg[0], title, caption, alt, legend)


@contextmanager
def canvas(salt: str, limits: str) -> Iterator[tuple[Axes, list[str]]]:
    """Give axes to draw on and a list, into which the SVG comes at the end.

    Args:
        salt: text from which identities in the SVG are made, for they must be distinct within a page.
        limits: where axes end, at `round_numbers` or with the `data`.
    """
    from matplotlib.figure import Figure as Drawing
    from matplotlib.style import context

    svg: list[str] = []
    with context(["default", {**STYLE, "svg.hashsalt": salt, "axes.autolimit_mode": limits}]):  # no style of the user
        drawing = Drawing((WIDTH / 72, HEIGHT / 72))
        box = LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT
        yield drawing.add_axes(box), svg
        file = io.StringIO()
        drawing.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg.append(file.getvalue())


def figure_of(svg: str, title: str, caption: str, alt: str, legend: Sequence[tuple[str, int]] = ()) -> Figure:
    """Return a figure of an SVG by matplotlib, with the page's font, and its colours in place of the usual ones."""
    from matplotlib.colors import TABLEAU_COLORS

    names = {colour: f"c{index}" for index, colour in enumerate(TABLEAU_COLORS.values())}
    names |= {LINE: "line", "#000000": "soft", "#ffffff": "panel"}
    head, _, inside = svg.partition("<svg ")[2].partition(">")
    width, height = re.findall(r'viewBox="0 0 (\S+) (\S+)"', head)[0]
    inside = re.sub(r"<style.*?</style>|</svg>\s*$", "", inside, flags=re.DOTALL)
    inside = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", inside)  # all but markers and clips
    inside = re.sub(r"font(?:-size|-family)?: [^;\"]*;? ?", "", inside)
    for colour, name in names.items():
        inside = re.sub(f'{colour}(?=[;"])', f"var(--{name})", inside)
    return Figure(title, caption, alt, inside, legend, (float(width), float(height)))


def format_tick(value: float) -> str:
    """Format a number as a tick label."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("e-0", "e-")


def describe_line(name: str, points: Sequence[tuple[float, float]], unit: str) -> str:
    """Describe a line in words."""
    first, last = points[0][1], points[-1][1]
    low, high = min(y for _, y in points), max(y for _, y in points)
    return f"{name}: {first:.3g}{unit} first, {last:.3g}{unit} last, between {low:.3g}{unit} and {high:.3g}{unit}."
