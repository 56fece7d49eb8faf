"""The tables of docs/findings.md, from the records that `fastclr findings run` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods_table import commit_text
from report_data import contents
from report_tables import hardware_text

from fastclr.bench.findings.page import effect_text, interval_text

HEAD = ("finding", "claim", "verdict", "again", "effect", "95% interval", "paper")
TIERS = ("cpu", "gpu", "grid")
EFFECTS_IMAGE = "The effects that are measured in points, with their 95% intervals"
GRID_IMAGE = "Linear accuracy of all pairs of augmentations"


def load_findings(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read the records of findings in a folder."""
    found = {path: contents(path) for path in sorted(folder.glob("findings-*.json"))}
    return {path: stored for path, stored in found.items() if "findings" in stored}


def by_tier(records: Mapping[Path, Mapping[str, Any]]) -> dict[str, dict[Path, Mapping[str, Any]]]:
    """Return the records of every tier, those with the lowest seeds first."""
    found: dict[str, dict[Path, Mapping[str, Any]]] = {}
    for tier in TIERS:
        same_tier = [path for path, stored in records.items() if stored["tier"] == tier]
        for path in sorted(same_tier, key=lambda path: min(records[path]["seeds"])):
            found.setdefault(tier, {})[path] = records[path]
    return found


def findings_block(records: Mapping[Path, Mapping[str, Any]]) -> str:
    """Return the text between the markers of docs/findings.md."""
    parts = []
    for tier, suites in by_tier(records).items():
        path, (first, *again) = next(iter(suites)), suites.values()
        told = claims_text(first) if tier == "grid" else verdict_table(first, again)
        parts += [image(tier), told, caption(suites, path)]
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


def plot_of(tier: str) -> str:
    """Return the name of the picture of a tier, beside docs/findings.md."""
    return f"findings-{tier}.svg"


def image(tier: str) -> str:
    """Return the link to the picture of a tier."""
    return f"![{GRID_IMAGE if tier == 'grid' else EFFECTS_IMAGE}]({plot_of(tier)})"


def claims_text(stored: Mapping[str, Any]) -> str:
    """Return what was claimed of the grid, and what came out."""
    claims = [claim for finding in stored["findings"] for claim in finding["claims"]]
    said = (f"{each['title']}: {each['verdict']}, {effect_text(each)} {interval_text(each)}" for each in claims)
    return f"{'; '.join(said)}."


def caption(records: Mapping[Path, Mapping[str, Any]], path: Path) -> str:
    """Return on what, where and from which files."""
    stored = records[path]
    seeds = ", again ".join(f"{each['seeds'][0]} to {each['seeds'][-1]}" for each in records.values())
    parts = [
        f"Measured on {stored['data']}, {stored['images'][0]:,} training and {stored['images'][1]:,} test images; "
        f"seeds {seeds}; {stored['trainings']} trainings, {stored['processor_s'] / 60:.0f} minutes "
        "of a processor",
        hardware_text(stored["machine"]),
        f"commit {commit_text(stored['commit'])}",
    ]
    links = [f"[{each.name}](../benchmarks/results/{each.name})" for each in records]
    return "; ".join(parts) + f"; {', '.join(links)}."
