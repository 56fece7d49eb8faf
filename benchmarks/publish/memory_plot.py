"""Draws the memory of the loss over the batch size as an SVG that reads on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from memory_curve import DIM, DTYPE, Curve

WIDTH, HEIGHT = 840, 430
LEFT, RIGHT, TOP, BOTTOM = 66, 44, 74, 58
FEWEST, MOST = 256, 2**18  # images
GB, TOP_GB, LIMIT_GB = 1e9, 100, 80
# library -> its name in the picture, its colour on white and on black, GB at which its label stands, and on which side
SHOWN: dict[str, tuple[str, str, str, float, str]] = {
    "pytorch-metric-learning": ("pytorch-metric-learning", "#8250df", "#bc8cff", 54, "right"),
    "lightly": ("lightly", "#9a6700", "#d9a520", 68, "left"),
    "pytorch": ("plain PyTorch", "#1a7f37", "#56d364", 48, "left"),
    "pytorch-compile": ("torch.compile", "#57606a", "#9da7b3", 50, "right"),
    "fastclr": ("fastclr", "#cf222e", "#ff7b72", 0, "above"),
}
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 }
  .quiet { fill: #59636e; font-size: 12px }
  .card { fill: #ffffff; stroke: #d1d9e0 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .limit { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 6 4 }
  .curve { fill: none; stroke-width: 2.2 }
  .own { stroke-width: 4 }
  .name { font-weight: 600 }
"""
DARK = """
    text { fill: #e6edf3 }
    .quiet { fill: #9da7b3 }
    .card { fill: #0d1117; stroke: #3d444d }
    .grid { stroke: #2a313c }
    .limit { stroke: #e6edf3 }
"""


def across(images: float) -> float:
    """Return x of a number of images, on a logarithmic axis."""
    share = math.log(images / FEWEST) / math.log(MOST / FEWEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def up(bytes_: float) -> float:
    """Return y of a number of bytes, on a linear axis."""
    return HEIGHT - BOTTOM - bytes_ / GB / TOP_GB * (HEIGHT - TOP - BOTTOM)


def memory_svg(found: Mapping[str, Curve]) -> str:
    """Return the picture of some curves."""
    light = "".join(_colours(name, SHOWN[name][1]) for name in SHOWN)
    dark = "".join(_colours(name, SHOWN[name][2]) for name in SHOWN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title about">',
        '<title id="title">Peak memory of the contrastive loss over the batch size</title>',
        f'<desc id="about">{description(found)}</desc>',
        f"<style>{STYLE}{light}  @media (prefers-color-scheme: dark) {{{DARK}{dark}  }}\n</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="30">Peak memory of the contrastive loss, GB</text>',
        f'<text class="quiet" x="{LEFT}" y="50">NT-Xent, forward and backward, D = {DIM}, {DTYPE}. Dots: bytes counted '
        "on a CPU; curves: their power of the batch.</text>",
    ]
    for gigabytes in range(0, TOP_GB + 1, 20):
        y = up(gigabytes * GB)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{gigabytes}</text>')
    for exponent in range(int(math.log2(FEWEST)), int(math.log2(MOST)) + 1, 2):
        x, y = across(2**exponent), HEIGHT - BOTTOM
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 5}"/>')
        parts.append(f'<text class="quiet" x="{x:.1f}" y="{y + 20}" text-anchor="middle">{2**exponent:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="quiet" x="{middle:.1f}" y="{HEIGHT - 14}" text-anchor="middle">batch size: images, two views of '
        "each (logarithmic)</text>"
    )
    y = up(LIMIT_GB * GB)
    parts.append(f'<line class="limit" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
    parts.append(f'<text x="{across(1400):.1f}" y="{y - 7:.1f}">{LIMIT_GB} GB: the memory of a large GPU</text>')
    for name in SHOWN:
        if name in found:
            parts += _curve(found[name])
    return "\n".join([*parts, "</svg>"]) + "\n"


def description(found: Mapping[str, Curve]) -> str:
    """Return the picture in words."""
    limits = [
        f"{SHOWN[name][0]} reaches 80 GB at {curve.within(LIMIT_GB * GB):,} images"
        for name, curve in found.items()
        if name in SHOWN and curve.degree > 1
    ]
    own = f"; fastclr needs {found['fastclr'].at(MOST) / GB:.1f} GB at {MOST:,}" if "fastclr" in found else ""
    return "; ".join(limits) + own


def _colours(name: str, colour: str) -> str:
    kind = _kind(name)
    return f"  .{kind} {{ stroke: {colour} }} .{kind}-ink {{ fill: {colour} }}\n"


def _kind(name: str) -> str:
    return f"c-{name}"


def _curve(curve: Curve) -> list[str]:
    """Draw a curve with its dots and its label."""
    shown, _, _, height, side = SHOWN[curve.name]
    kind = _kind(curve.name)
    end = min(MOST, curve.within(TOP_GB * GB))
    steps = 120
    points = [FEWEST * (end / FEWEST) ** (i / steps) for i in range(steps + 1)]
    path = " ".join(f"{across(n):.1f},{up(curve.at(n)):.1f}" for n in points)
    own = " own" if curve.name == "fastclr" else ""
    parts = [f'<polyline class="curve {kind}{own}" points="{path}"/>']
    parts += [
        f'<circle class="{kind}-ink" cx="{across(n):.1f}" cy="{up(count):.1f}" r="{4 if own else 3}"/>'
        for n, count in curve.points
        if n >= FEWEST
    ]
    if side == "above":
        text = f"{shown}: {curve.at(MOST) / GB:.1f} GB at {MOST:,}"
        return [*parts, _label(text, WIDTH - RIGHT - 4, up(curve.at(MOST)) - 14, "end", f"{kind}-ink")]
    limit = f"{shown}: {curve.within(LIMIT_GB * GB):,} in 80 GB"
    x, y = across(curve.within(height * GB)), up(height * GB)
    away, anchor = (-26, "end") if side == "left" else (26, "start")
    parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{x + 0.8 * away:.1f}" y2="{y:.1f}"/>')
    lines: Sequence[str] = [shown, limit.partition(": ")[2]] if side == "right" else [limit]
    return parts + [_label(text, x + away, y + 5 + 17 * i, anchor, f"{kind}-ink") for i, text in enumerate(lines)]


def _label(text: str, x: float, y: float, anchor: str, ink: str) -> str:
    return f'<text class="name {ink}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
