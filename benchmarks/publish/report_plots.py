"""Plots as SVG; each contains a digest of its data, so that a stale plot is found without redrawing it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from report_tables import by_case, headline_losses

from fastclr.bench.rows import Row

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "fastclr", "font.size": 10, "axes.spines.top": False}
DIGEST = re.compile(r"digest:([0-9a-f]{16})")


def digest_of(shown: Any) -> str:
    """Return a digest of a plot's numbers."""
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def stored_digest(svg: str) -> str | None:
    """Return the digest that a plot contains."""
    found = DIGEST.search(svg)
    return found[1] if found else None


def loss_shown(rows: Sequence[Row]) -> dict[str, list[tuple[int, float, int]]]:
    """M, seconds and extra bytes by provider."""
    shown: dict[str, list[tuple[int, float, int]]] = {}
    for row in headline_losses(rows):
        if row.time:
            shown.setdefault(row.provider, []).append((row.parameters["rows"], row.time.median, row.peak_bytes or 0))
    return shown


def augment_shown(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Views per second by case and provider."""
    found = by_case([row for row in rows if "float32" not in row.case])
    return {case: {name: row.rate for name, row in rows.items() if row.rate} for case, rows in found.items()}


def ladder_shown(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of every stage by case and rung."""
    found = by_case(rows)
    return {
        case: {name: {s: v.median for s, v in row.stages.items()} for name, row in rungs.items() if row.stages}
        for case, rungs in found.items()
    }


def loss_plot(rows: Sequence[Row]) -> str:
    """Draw time over M and memory over M."""
    figure, (left, right) = _figure(2, 10, 4)
    shown = loss_shown(rows)
    for index, (name, points) in enumerate(shown.items()):
        own = {"linewidth": 2.5, "zorder": 3} if name == "fastclr" else {"linewidth": 1.2}
        m, t, b = zip(*points, strict=True)
        left.plot(m, [1000 * value for value in t], "o-", color=f"C{index}", label=name, **own)
        if any(b):
            right.plot(m, [value / 2**20 for value in b], "o-", color=f"C{index}", label=name, **own)
    left.set(title="NT-Xent, forward and backward", ylabel="ms")
    right.set(title="extra memory at the peak", ylabel="MiB")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="rows M = 2N")
        axis.grid(alpha=0.3)
    left.legend(frameon=False, fontsize="small")
    return _svg(figure, shown)


def augment_plot(rows: Sequence[Row]) -> str:
    """Draw views per second as bars, one panel per size."""
    shown = augment_shown(rows)
    figure, axes = _figure(len(shown), 10, 3.2)
    for axis, (case, rates) in zip(axes, shown.items(), strict=True):
        names = list(rates)[::-1]
        colours = ["C0" if name == "fastclr" else "0.7" for name in names]
        axis.barh(names, [rates[name] for name in names], color=colours)
        for place, name in enumerate(names):
            axis.text(rates[name], place, f" {rates[name]:,.0f}", va="center", fontsize="small")
        axis.set(title=case, xlabel="views/s, logarithmic", xscale="log")
        axis.margins(x=0.35)
    return _svg(figure, shown)


def ladder_plot(rows: Sequence[Row]) -> str:
    """Draw the stages of a training step as stacked bars, one per rung of the ladder."""
    shown = ladder_shown(rows)
    figure, axes = _figure(len(shown), 10, 3.2)
    for axis, (case, rungs) in zip(axes, shown.items(), strict=True):
        names = list(rungs)[::-1]
        stages = list(dict.fromkeys(stage for rung in rungs.values() for stage in rung))
        start = [0.0] * len(names)
        for index, stage in enumerate(stages):
            widths = [1000 * rungs[name].get(stage, 0.0) for name in names]
            axis.barh(names, widths, left=start, label=stage, color=f"C{index}")
            start = [a + b for a, b in zip(start, widths, strict=True)]
        axis.set(title=case, xlabel="ms per step")
        axis.legend(frameon=False, fontsize="small")
    return _svg(figure, shown)


def _figure(panels: int, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(1, panels, squeeze=False)[0]


def _svg(figure: Any, shown: Any) -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        about = {"Date": None, "Creator": "benchmarks/publish/report.py", "Description": f"digest:{digest_of(shown)}"}
        figure.savefig(file, format="svg", metadata=about)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
