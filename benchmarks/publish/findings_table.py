"""The tables of docs/findings.md, from the records that `fastclr findings run` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods_table import commit_text
from report_data import contents
from report_tables import hardware_text

from fastclr.bench.findings.operators import OPERATORS
from fastclr.bench.findings.page import GRID, effect_text, interval_text

HEAD = ("finding", "claim", "verdict", "again", "effect", "95% interval", "paper")
TIERS = ("cpu", "gpu")


def load_findings(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read the records of findings in a folder."""
    found = {path: contents(path) for path in sorted(folder.glob("findings-*.json"))}
    return {path: stored for path, stored in found.items() if "findings" in stored}


def findings_block(records: Mapping[Path, Mapping[str, Any]]) -> str:
    """Return the text between the markers of docs/findings.md."""
    parts = []
    for tier in TIERS:
        found = {path: stored for path, stored in records.items() if stored["tier"] == tier}
        if found:
            path, *again = sorted(found, key=lambda path: min(found[path]["seeds"]))
            parts += [verdict_table(found[path], [found[other] for other in again]), caption(found, path)]
    for path, stored in records.items():
        if stored["tier"] == "grid":
            parts += [grid_table(stored), caption({path: stored}, path)]
    if not parts:
        return "Not measured yet: `fastclr findings run` makes the table."
    return "\n\n".join(parts)


def verdict_table(stored: Mapping[str, Any], again: Sequence[Mapping[str, Any]]) -> str:
    """Return all claims with their verdicts, and those of the same suite with other seeds."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for finding in stored["findings"]:
        for index, claim in enumerate(finding["claims"]):
            others = ", ".join(same(claim["title"], finding["name"], each) for each in again)
            title = claim["title"] if claim["primary"] else f"{claim['title']} (beside)"
            cells = (
                f"`{finding['name']}`" if index == 0 else "",
                title,
                claim["verdict"],
                others,
                effect_text(claim),
                interval_text(claim),
                claim["paper"],
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def same(title: str, name: str, stored: Mapping[str, Any]) -> str:
    """Return the verdict of the same claim in another suite."""
    claims = [claim for each in stored["findings"] if each["name"] == name for claim in each["claims"]]
    return next((str(claim["verdict"]) for claim in claims if claim["title"] == title), "")


def grid_table(stored: Mapping[str, Any]) -> str:
    """Return the linear accuracy of all pairs of operators, the first down, the second across, best ones in bold."""
    (finding,) = [each for each in stored["findings"] if each["name"] == GRID]
    means = {row["role"]: 100 * row["means"]["linear"] for row in finding["conditions"]}
    best = sorted(means.values())[-2:]
    lines = [f"| first, then second | {' | '.join(OPERATORS)} |", "|---" * (len(OPERATORS) + 1) + "|"]
    for first in OPERATORS:
        values = [means[f"{first}+{second}"] for second in OPERATORS]
        cells = [f"**{value:.1f}**" if value in best else f"{value:.1f}" for value in values]
        lines.append(f"| {first} | {' | '.join(cells)} |")
    claims = "; ".join(
        f"{claim['title']}: {claim['verdict']}, {effect_text(claim)} {interval_text(claim)}"
        for claim in finding["claims"]
    )
    return "\n".join(lines) + f"\n\n{claims}."


def caption(records: Mapping[Path, Mapping[str, Any]], path: Path) -> str:
    """Return on what, where and from which files."""
    stored = records[path]
    seeds = stored["seeds"]
    parts = [
        f"Measured on {stored['data']}, {stored['images'][0]:,} training and {stored['images'][1]:,} test images; "
        f"seeds {seeds[0]} to {seeds[-1]}; {stored['trainings']} trainings, {stored['processor_s'] / 60:.0f} minutes "
        "of a processor",
        hardware_text(stored["machine"]),
        f"commit {commit_text(stored['commit'])}",
    ]
    links = [f"[{each.name}](../benchmarks/results/{each.name})" for each in records]
    return "; ".join(parts) + f"; {', '.join(links)}."
