"""One self-contained page with all tables and plots of some results."""

from __future__ import annotations

from collections.abc import Sequence

from report_data import Result
from report_plots import augment_plot, ladder_plot, loss_plot
from report_tables import PLAIN, by_case, machine_text, plain_rows

from fastclr.report.blocks import Block, Charts, Paragraph, Section, Table
from fastclr.report.charts import figure_of
from fastclr.report.pages import page as written

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
LEAD = (
    "Contestants of a case take turns in one process; each passed a gate for right results first. Times are medians "
    "with the 20th and 80th percentile; ~ marks a spread above 15%. A factor is a time per unit of work over that of "
    "the first row of fastclr."
)


def page(results: Sequence[Result], records: Sequence[str] = ()) -> bytes:
    """Return the page as HTML; `records` are sentences about time to accuracy."""
    sections = [Section("records", "Time to accuracy", [Paragraph(record) for record in records])] if records else []
    for number, result in enumerate(results):
        blocks: list[Block] = [Paragraph(f"{machine_text(result.machine)}: {'; '.join(result.commands)}")]
        if result.ceilings:
            measured = ", ".join(f"{name} {value:.3g}/s" for name, value in result.ceilings.items())
            blocks.append(Paragraph(f"Ceilings measured in the same run: {measured}."))
        if result.missing:
            blocks.append(Paragraph(f"Not measured yet: {', '.join(result.missing)}."))
        for suite, title in TITLES.items():
            rows = result.suite(suite)
            if suite in PLOTS and any(row.time for row in rows):
                blocks.append(Charts([figure_of(PLOTS[suite](rows), title, "The numbers are below.", title)]))
            tables = {f"{title}: {case}": list(found.values()) for case, found in by_case(rows).items()}
            if rows and suite in ("ladder", "photos"):  # each case is a single row
                tables = {title: rows}
            blocks += [Table(PLAIN, plain_rows(found), name, "numbers") for name, found in tables.items()]
        sections.append(Section(f"results-{number}", result.path.name, blocks))
    return written("fastclr: benchmarks", LEAD, sections)
