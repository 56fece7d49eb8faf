"""The page of the findings: verdicts, bars with intervals, and the heat map of pairs of augmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastclr.bench.findings.operators import OPERATORS
from fastclr.bench.findings.verdict import FEWEST, LEVEL
from fastclr.report.blocks import Block, Charts, Figure, Missing, Paragraph, Section, Table
from fastclr.report.charts import canvas, figure_of
from fastclr.report.pages import page

MOST_BARS = 12
GRID = "augmentation-grid"


def findings_page(record: dict[str, Any]) -> bytes:
    """Return the page of a record of `fastclr.bench.findings.record`."""
    found = [each for each in record["findings"] if each["seeds"]]
    sections = [Section("verdicts", "Verdicts", verdicts(record))]
    sections += [Section(each["name"], each["title"], finding_blocks(each)) for each in found]
    sections.append(Section("how", "How this was done", how(record)))
    images = "the built-in shapes" if record["data"] == "shapes" else record["data"]
    lead = f"Findings of the papers, checked on {images}: {record['images'][0]:,} images, tier {record['tier']}."
    return page("Findings", lead, sections)


def verdicts(record: dict[str, Any]) -> list[Block]:
    """Return the table of all claims, and why there is nothing to claim where the tier is void."""
    blocks: list[Block] = [Paragraph(record["void"], warning=True)] if record["void"] else []
    rows = [row for each in record["findings"] for row in verdict_rows(each)]
    head = ("finding", "claim", "verdict", "effect", f"{LEVEL:.0%} interval", "seeds", "paper", "Holm's p")
    return [*blocks, Table(head, rows, f"Claims and verdicts. {record['rule'].capitalize()}.")]


def verdict_rows(finding: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each claim; a finding without claims, or not run, has one."""
    if not finding["claims"] or not finding["seeds"]:
        return [(finding["title"], "", finding["verdict"], "", "", str(len(finding["seeds"])), "", "")]
    rows: list[tuple[str, ...]] = []
    for claim in finding["claims"]:
        values = claim.get("values", [])
        title = claim["title"] if claim["primary"] else f"{claim['title']} (beside)"
        rows.append(
            (
                finding["title"],
                title,
                claim["verdict"],
                effect_text(claim),
                interval_text(claim),
                str(len(values)),
                claim["paper"],
                "" if claim["holm_p"] is None else f"{claim['holm_p']:.3g}",
            )
        )
    return rows


def effect_text(claim: dict[str, Any]) -> str:
    """Return the mean effect with its unit."""
    return f"{claim['mean']:+.1f} {claim['unit']}" if "mean" in claim else claim.get("note", "")


def interval_text(claim: dict[str, Any]) -> str:
    """Return the interval, or that there are too few seeds for one."""
    if claim.get("low") is None:
        return f"needs {FEWEST} seeds" if "mean" in claim else ""
    return f"[{claim['low']:+.1f}, {claim['high']:+.1f}]"


def finding_blocks(finding: dict[str, Any]) -> list[Block]:
    """Return question, effects, scores of the conditions, and what is known not to replicate."""
    blocks: list[Block] = [Paragraph(f"{finding['question']} {finding['source']}.")]
    claims = [claim for claim in finding["claims"] if "mean" in claim]
    if len(finding["conditions"]) <= MOST_BARS:
        blocks.append(Charts([bars(finding)]))
    if claims:
        rows = [(c["title"], c["verdict"], effect_text(c), interval_text(c), seeds_text(c), c["paper"]) for c in claims]
        blocks.append(Table(("claim", "verdict", "effect", "interval", "of each seed", "paper"), rows, "Claims."))
    blocks.append(grid_table(finding) if finding["name"] == GRID else conditions_table(finding))
    if finding["small"]:
        blocks.append(Paragraph(f"At a small scale: {finding['small']}"))
    return blocks


def seeds_text(claim: dict[str, Any]) -> str:
    """Return the effect of each seed."""
    return ", ".join(f"{value:+.1f}" for value in claim["values"])


def conditions_table(finding: dict[str, Any]) -> Table:
    """Return the means of all that was measured, conditions by numbers."""
    names = sorted({name for row in finding["conditions"] for name in row["means"]})
    rows = []
    for row in finding["conditions"]:
        rows.append((row["name"], *(number(name, row["means"].get(name)) for name in names)))
    head = ("condition", *(name.replace("_", " ") for name in names))
    return Table(head, rows, f"Means over {len(finding['seeds'])} seeds.", "numbers")


def number(name: str, value: float | None) -> str:
    """Return a number as its name wants it: entropies, losses and seconds as they are, shares in percent."""
    if value is None:
        return ""
    plain = name in ("loss", "contrastive_entropy") or name.endswith("_s")
    return f"{value:.2f}" if plain else f"{100 * value:.1f}%"


def grid_table(finding: dict[str, Any]) -> Block:
    """Return the heat map of the pairs: the first operator down, the second across, linear accuracy."""
    means = {row["role"]: row["means"].get("linear") for row in finding["conditions"]}
    if any(value is None for value in means.values()):
        return Missing("Not all pairs are done.")
    low, high = min(means.values()), max(means.values())
    rows, shades = [], []
    for first in OPERATORS:
        values = [means[f"{first}+{second}"] for second in OPERATORS]
        rows.append((first, *(f"{100 * value:.1f}" for value in values)))
        shades.append([(value - low) / max(high - low, 1e-9) for value in values])
    caption = "Linear accuracy in percent. The first operator down, the second across; on the diagonal one alone."
    return Table(("first, then second", *OPERATORS), rows, caption, "counts", shades=shades)


def bars(finding: dict[str, Any]) -> Figure:
    """Return the linear accuracy of every condition as a bar, with a dot for every seed."""
    rows: Sequence[dict[str, Any]] = finding["conditions"]
    title = "Linear accuracy"
    means = [100 * row["means"].get("linear", 0.0) for row in rows]
    said = "; ".join(f"{row['name']} {mean:.1f}%" for row, mean in zip(rows, means, strict=True))
    alt = f"{title}: {said}."
    with canvas(f"{finding['name']} {alt}", "data") as (axes, svg):
        axes.set_position((0.42, 0.14, 0.54, 0.82))
        places = range(len(rows))
        axes.barh(places, means, color="C0", height=0.6)
        for place, row in zip(places, rows, strict=True):
            axes.plot([100 * value for value in row["linear"]], [place] * len(row["linear"]), "o", color="C1")
        axes.set_yticks(list(places), [row["role"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, None)
        axes.set_xlabel("% of the test images")
    return figure_of(svg[0], title, "Bars: means; dots: the seeds.", alt)


def how(record: dict[str, Any]) -> list[Block]:
    """Return what the trainings have in common, and what they cost."""
    base = record["base"]
    rows = [
        ("images", f"{record['data']}, {record['images'][0]:,} to train on and {record['images'][1]:,} to test"),
        ("encoder", f"{base['encoder']}, width {base['width']:g}, {base['augment']['size']} px"),
        ("training", f"{base['epochs']} epochs of {base['batch_size']} images a batch, rate {base['lr']:g}"),
        ("pairing", "all conditions of a seed start from the same weights and see the images in the same order"),
        ("trainings", f"{record['trainings']}, {record['processor_s'] / 60:.0f} minutes of a processor"),
        ("processor", str(record["machine"]["cpu"])),
        ("commit", str(record["commit"])),
    ]
    return [Table(("", ""), rows, "The same for all conditions, unless a condition says otherwise.")]
