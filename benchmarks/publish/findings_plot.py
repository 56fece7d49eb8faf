"""Draws what the findings gave: all pairs of augmentations as a heat map, all effects with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from picture import INK, QUIET, finished, picture
from report_plots import digest_of

from fastclr.bench.findings.operators import OPERATORS
from fastclr.bench.findings.page import GRID
from fastclr.bench.findings.verdict import CONTRADICTED, HOLDS, NOT_RESOLVED

WIDTH, HEIGHT = 840, 440
BOX = (96 / WIDTH, 20 / HEIGHT, 728 / WIDTH, 330 / HEIGHT)  # of the cells: left, bottom, width, height
TITLE = "Linear accuracy by pair of augmentations"
MEAN = "mean"
BLACK, WHITE, BEST = "#20252b", "#fdfdfd", "#cf222e"  # on shades that are the same on light and on dark pages
AGAIN = "{}, and again with others"
SMALL: dict[str, Any] = {"size": 12, "color": QUIET}
EFFECTS = "What the papers claim, and what we found"
ROW = 30  # pixels of a claim
# verdict -> its colour on white and on black
VERDICTS = {HOLDS: ("#1a7f37", "#56d364"), CONTRADICTED: ("#cf222e", "#ff7b72"), NOT_RESOLVED: ("#6e7781", "#8b949e")}
SHADES = ("#eaf2fb", "#0a4fa3")  # of the worst and of the best pair


def grid_shown(stored: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean linear accuracy in percent of every pair, `first+second`."""
    (finding,) = [each for each in stored["findings"] if each["name"] == GRID]
    means = {row["role"]: 100 * row["means"]["linear"] for row in finding["conditions"]}
    return {f"{first}+{second}": means[f"{first}+{second}"] for first in OPERATORS for second in OPERATORS}


def grid_svg(stored: Mapping[str, Any]) -> str:
    """Return the picture of a record of the grid: the first operator down, the second across, one alone diagonally."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patches import Rectangle

    shown, names, count = grid_shown(stored), list(OPERATORS), len(OPERATORS)
    cells = np.array([[shown[f"{first}+{second}"] for second in names] for first in names])
    shade = LinearSegmentedColormap.from_list("shades", SHADES)
    share = (cells - cells.min()) / max(np.ptp(cells), 1e-9)
    with picture(WIDTH, HEIGHT) as (figure, svg):
        axes = figure.add_axes(BOX, frameon=False)
        axes.set(xlim=(0, count + 1.2), ylim=(count, 0))
        for row in range(count):
            for column in range(count):
                place, value = (column, row), cells[row, column]
                axes.add_patch(Rectangle(place, 0.96, 0.94, color=to_hex(shade(share[row, column]))))
                ink = WHITE if share[row, column] > 0.45 else BLACK
                axes.text(column + 0.48, row + 0.49, f"{value:.1f}", color=ink, ha="center", va="center")
            mean = cells[row].mean()
            axes.text(count + 0.68, row + 0.49, f"{mean:.1f}", color=QUIET, ha="center", va="center")
        row, column = np.unravel_index(cells.argmax(), cells.shape)
        axes.add_patch(Rectangle((int(column), int(row)), 0.96, 0.94, fill=False, edgecolor=BEST, linewidth=3))
        axes.set_xticks([*np.arange(count) + 0.48, count + 0.68], [*names, MEAN])
        axes.set_yticks(np.arange(count) + 0.49, names)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        below = f"The first down, the second across, one alone on the diagonal. {where(stored)}."
        figure.text(12 / WIDTH, 1 - 30 / HEIGHT, f"{TITLE}, %", size=17, weight="bold")
        figure.text(12 / WIDTH, 1 - 50 / HEIGHT, below, **SMALL)
    return finished(svg[0], TITLE, description(shown), digest_of(shown), {})


def effects_shown(suites: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, float, float, float]]]:
    """Return verdict, effect and interval in every suite of all primary claims that are measured in points."""
    shown: dict[str, list[tuple[str, float, float, float]]] = {}
    for stored in suites:
        for finding in stored["findings"]:
            for claim in finding["claims"]:
                values = [claim[name] for name in ("mean", "low", "high")]
                if claim["primary"] and claim["unit"] == "points" and all(map(math.isfinite, values)):
                    name = f"{finding['name']}: {claim['title']}"
                    shown.setdefault(name, []).append((claim["verdict"], *values))
    return shown


def effects_svg(suites: Sequence[Mapping[str, Any]]) -> str:
    """Return the picture of the effects of some suites with other seeds, the first one at the top of each row."""
    shown = effects_shown(suites)
    height = 110 + ROW * len(shown)
    with picture(WIDTH, height) as (figure, svg):
        axes = figure.add_axes((498 / WIDTH, 46 / height, 326 / WIDTH, 1 - 106 / height), frameon=False)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.grid(axis="x")
        for row, found in enumerate(shown.values()):
            for index, (verdict, mean, low, high) in enumerate(found):
                place = row + 0.22 * (index - (len(found) - 1) / 2)
                colour = VERDICTS[verdict][0]
                axes.plot([low, high], [place, place], color=colour, linewidth=2.2, gid=f"interval-{row}-{index}")
                axes.plot([mean], [place], "o", color=colour, markersize=7 if index == 0 else 4)
        axes.set_yticks(range(len(shown)), list(shown), size=12)
        axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="points of accuracy; above 0 the paper is right")
        axes.tick_params(length=0)
        figure.text(12 / WIDTH, 1 - 30 / height, EFFECTS, size=17, weight="bold")
        left = 12 / WIDTH
        for verdict, (colour, _) in VERDICTS.items():
            figure.text(left, 1 - 50 / height, f"\u25cf {verdict}", size=12, color=colour, weight="bold")
            left += (40 + 7 * len(verdict)) / WIDTH
        figure.text(left, 1 - 50 / height, AGAIN.format(where(suites[0])) if suites[1:] else where(suites[0]), **SMALL)
    return finished(svg[0], EFFECTS, in_words(shown), digest_of(shown), dict(VERDICTS.values()))


def in_words(shown: Mapping[str, list[tuple[str, float, float, float]]]) -> str:
    """Return the effects in words."""
    said = []
    for name, ((verdict, mean, low, high), *_) in shown.items():
        said.append(f"{name}: {verdict}, {mean:+.1f} ({low:+.1f} to {high:+.1f})")
    return "; ".join(said)


def where(stored: Mapping[str, Any]) -> str:
    """Return on what a record was measured."""
    epochs, seeds = stored["base"]["epochs"], len(stored["seeds"])
    return f"{stored['images'][0]:,} images of {stored['data']}, {epochs} epochs, means of {seeds} seeds"


def description(shown: Mapping[str, float]) -> str:
    """Return the picture in words."""
    named = {pair: pair.split("+") for pair in shown}
    alone = max((pair for pair, (first, second) in named.items() if first == second), key=shown.__getitem__)
    best, worst = max(shown, key=shown.__getitem__), min(shown, key=shown.__getitem__)
    said = f"best: {', then '.join(named[best])} with {shown[best]:.1f}%; best one alone: {named[alone][0]} with "
    return f"{said}{shown[alone]:.1f}%; worst: {', then '.join(dict.fromkeys(named[worst]))} with {shown[worst]:.1f}%"
