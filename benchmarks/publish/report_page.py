"""One self-contained page with all tables and plots of some results."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from report_data import Result
from report_plots import augment_plot, ladder_plot, loss_plot
from report_tables import by_case, machine_text, plain_table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; font-variant-numeric: tabular-nums; }
td, th { padding: .15em .7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
td:first-child, th:first-child, td:last-child { text-align: left; }
td:last-child { color: #666; max-width: 34em; white-space: normal; } svg { max-width: 100%; height: auto; }
"""
TITLES = {
    "loss": "Loss",
    "augment": "Augmentation",
    "step": "Training step, part by part",
    "ladder": "Training, from a plain PyTorch loop to fastclr",
    "photos": "A training step on photos, and the largest batch",
    "loader": "From JPEG files to views",
    "distributed": "Loss over several processes",
    "contrast": "CLIP, SigLIP, SupCon, multiple negatives",
    "gram": "Barlow Twins and VICReg",
    "overhead": "Imports and calls",
    "busy": "Training beside busy processes, and alone",
}
PLOTS = {"loss": loss_plot, "augment": augment_plot, "step": ladder_plot}


def page(results: Sequence[Result], records: Sequence[str] = ()) -> str:
    """Return the page as HTML; `records` are sentences about time to accuracy."""
    parts = [f"<!doctype html><meta charset=utf-8><title>fastclr: benchmarks</title><style>{STYLE}</style>"]
    parts.append("<h1>fastclr: benchmarks</h1>")
    parts.append(
        "<p>Contestants of a case take turns in one process; each passed a gate for right results first. Times are "
        "medians with the 20th and 80th percentile; ~ marks a spread above 15%. A factor is a time per unit of work "
        "over that of the first row of fastclr.</p>"
    )
    parts += [f"<p>{html.escape(record)}</p>" for record in records]
    for result in results:
        parts.append(f"<h2>{html.escape(machine_text(result.machine))}</h2>")
        parts.append(f"<p>{html.escape(result.path.name)}: {html.escape('; '.join(result.commands))}</p>")
        if result.ceilings:
            measured = ", ".join(f"{name} {value:.3g}/s" for name, value in result.ceilings.items())
            parts.append(f"<p>Ceilings measured in the same run: {html.escape(measured)}.</p>")
        if result.missing:
            parts.append(f"<p>Not measured yet: {html.escape(', '.join(result.missing))}.</p>")
        for suite in TITLES:
            rows = result.suite(suite)
            if not rows:
                continue
            parts.append(f"<h3>{TITLES[suite]}</h3>")
            if suite in PLOTS and any(row.time for row in rows):
                parts.append(re.sub(r"^.*?(?=<svg)", "", PLOTS[suite](rows), flags=re.S))
            if suite in ("ladder", "photos"):  # each case is a single row
                parts.append(as_html(plain_table(rows)))
                continue
            for case, found in by_case(rows).items():
                parts.append(f"<h4>{html.escape(case)}</h4>{as_html(plain_table(list(found.values())))}")
    return "\n".join(parts) + "\n"


def as_html(lines: Sequence[str]) -> str:
    """Convert a Markdown table to HTML."""
    cells = [[html.escape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{cell}</th>" for cell in cells[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[2:])
    return f"<table><tr>{head}</tr>{body}</table>"
