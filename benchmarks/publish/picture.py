"""Pictures as SVG that read on light and on dark pages, each with a text alternative and a digest of its numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
# colours on white -> on black
DARK = {INK: "#e6edf3", QUIET: "#9da7b3", GRID: "#30363d", PAPER: "#0d1117"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fastclr",
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": GRID,
    "xtick.labelcolor": QUIET,
    "ytick.color": GRID,
    "ytick.labelcolor": QUIET,
    "lines.solid_capstyle": "round",
}
FONT = 'text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }'


@contextmanager
def picture(width: int, height: int) -> Iterator[tuple[Figure, list[str]]]:
    """Yield a figure of so many pixels to draw into, and a list that gets matplotlib's SVG of it at the end."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    svg: list[str] = []
    with context(["default", STYLE]):
        figure = Figure((width / 72, height / 72), facecolor=PAPER)
        yield figure, svg
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg.append(file.getvalue())


def finished(svg: str, title: str, about: str, digest: str, colours: Mapping[str, str]) -> str:
    """Return matplotlib's SVG without what a page does not need, with a text alternative and colours for dark pages.

    Args:
        svg: what `picture` made.
        title: its title for those who cannot see it.
        about: the same of what it shows.
        digest: of its numbers.
        colours: those that are not in `DARK`, on white and on black.
    """
    dark = "".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {black} !important }}\n'
        for light, black in {**DARK, **colours}.items()
        for kind in ("fill", "stroke")
    )
    box = re.search(r'viewBox="([^"]*)"', svg)
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    head += f'viewBox="{box[1] if box else ""}" role="img" aria-labelledby="title about">\n'
    head += f'<title id="title">{title}</title>\n<desc id="about">{about}</desc>\n<!-- digest:{digest} -->\n'
    head += f"<style>\n{FONT}\n@media (prefers-color-scheme: dark) {{\n{dark}}}\n</style>"
    inside = svg.partition("<svg ")[2].partition(">")[2]
    inside = re.sub(r"\s*<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    return head + "\n".join(line.rstrip() for line in inside.splitlines()) + "\n"
