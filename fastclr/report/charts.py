"""SVG charts that take their colours from the page, so that one drawing works in light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastclr.report.markup import Html, element, figure, join, legend, missing

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44
MOST_POINTS = 300  # per line; more are averaged in groups
COLOURS = 10


@dataclass(frozen=True)
class Series:
    """A line: its name and its points; non-finite points are dropped. `colour` is 0 to 9."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dots: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Return the finite points, averaged in groups if there are too many."""
        finite = [(a, b) for a, b in zip(self.x, self.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
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
) -> Html:
    """Return a figure with lines over a common axis, or a note if there are no finite points.

    Args:
        title: heading of the figure.
        lines: the series.
        x_label: label of the horizontal axis.
        caption: what the figure shows.
        from_zero: start the vertical axis at 0.
        log: use a logarithmic vertical axis; values that are not positive are dropped.
        unit: appended to the numbers on the vertical axis.
    """
    heading = element("h3", title)
    drawn = [(line, points) for line in lines if (points := [p for p in line.points() if not log or p[1] > 0])]
    if not drawn:
        return figure(heading, caption, missing("Nothing was recorded."))
    xs = [x for _, points in drawn for x, _ in points]
    ys = [math.log10(y) if log else y for _, points in drawn for _, y in points]
    x_ticks = ticks(min(xs), max(xs))
    x_ticks = [t for t in x_ticks if t == round(t)] or x_ticks  # steps and epochs are whole numbers
    y_ticks = ticks(min([0.0, *ys]) if from_zero else min(ys), max(ys))
    if log:
        y_ticks = [float(power) for power in range(math.floor(min(ys)), math.ceil(max(ys)) + 1)]
        y_ticks = y_ticks if len(y_ticks) > 1 else [y_ticks[0], y_ticks[0] + 1]
        y_ticks = y_ticks[:: -(-len(y_ticks) // 7)] if len(y_ticks) > 7 else y_ticks
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (x_ticks[0], x_ticks[-1])
    y_range = (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))
    place = Frame(x_range, y_range)
    parts = axes(place, [t for t in x_ticks if x_range[0] <= t <= x_range[1]], y_ticks, x_label, unit, log)
    for line, points in drawn:
        placed = [place(x, math.log10(y) if log else y) for x, y in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(element("path", d=path, class_=f"series s{line.colour % COLOURS}"))
        if line.dots or len(points) == 1:
            marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in placed)
            parts.append(element("path", d=marks, class_=f"dots s{line.colour % COLOURS}"))
    alt = f"{title}. " + " ".join(describe_line(line.name, points, unit) for line, points in drawn)
    svg = drawing(alt, parts)
    names = [line for line, _ in drawn]
    below = [legend([(line.name, line.colour % COLOURS) for line in names])] if len(names) > 1 else []
    return figure(join([heading, svg]), caption, *below)


def scatter_chart(title: str, groups: Sequence[tuple[str, Sequence[tuple[float, float]]]], caption: str) -> Html:
    """Return a scatter plot without axes; a group with an empty name is drawn in grey, beneath the others."""
    points = [p for _, group in groups for p in group]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    place = Frame((min(xs), max(xs)), (min(ys), max(ys)), pad=8, bare=True)
    parts: list[Html] = []
    named: list[tuple[str, int]] = []
    for name, group in sorted(groups, key=lambda entry: entry[0] != ""):
        if name:
            named.append((name, len(named)))
        kind = f"s{named[-1][1] % COLOURS}" if name else "others"
        marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (place(a, b) for a, b in group))
        parts.append(element("path", d=marks, class_=f"dots {kind}"))
    listed = f" Classes: {', '.join(name for name, _ in named)}." if len(named) > 1 else ""
    svg = drawing(f"{title}: {len(points)} points.{listed}", parts)
    below = [legend([(name, colour % COLOURS) for name, colour in named])] if len(named) > 1 else []
    return figure(join([element("h3", title), svg]), caption, *below)


class Frame:
    """Maps data coordinates to the coordinates of the drawing."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], pad: float = 0, bare: bool = False) -> None:
        self.x, self.y = x, y
        left, right, top, bottom = (pad, pad, pad, pad) if bare else (LEFT, RIGHT, TOP, BOTTOM)
        self.box = (left, top, WIDTH - right, HEIGHT - bottom)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a point in the units of the drawing."""
        left, top, right, bottom = self.box
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return left + across * (right - left), bottom - up * (bottom - top)


def axes(
    place: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, unit: str, log: bool
) -> list[Html]:
    """Return grid lines, tick labels and the label of the horizontal axis."""
    left, _, right, bottom = place.box
    parts = []
    for tick in y_ticks:
        _, y = place(place.x[0], tick)
        parts.append(element("line", x1=left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        text = f"{10**tick:g}".replace("e-0", "e-") if log else format_tick(tick)
        parts.append(element("text", text + unit, x=left - 8, y=f"{y + 4:.1f}", text_anchor="end"))
    for tick in x_ticks:
        x, _ = place(tick, place.y[0])
        parts.append(element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 5, class_="grid"))
        parts.append(element("text", format_tick(tick), x=f"{x:.1f}", y=bottom + 19, text_anchor="middle"))
    middle = f"{(left + right) / 2:.0f}"
    return [*parts, element("text", x_label, x=middle, y=HEIGHT - 6, text_anchor="middle")]


def drawing(alt: str, parts: Sequence[Html]) -> Html:
    """Return an SVG with a text alternative."""
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers spanning `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    size = max(abs(low), abs(high))
    if high - low <= 1e-6 * size or size < 1e-12:  # a single value, up to rounding
        high = low + (size if size >= 1e-12 else 1.0) / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def format_tick(value: float) -> str:
    """Format a number as a tick label."""
    if value and abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def describe_line(name: str, points: Sequence[tuple[float, float]], unit: str) -> str:
    """Describe a line in words."""
    first, last = points[0][1], points[-1][1]
    low, high = min(y for _, y in points), max(y for _, y in points)
    return f"{name}: {first:.3g}{unit} first, {last:.3g}{unit} last, between {low:.3g}{unit} and {high:.3g}{unit}."
