"""Writes the result tables of the README from the JSON files in benchmarks/results.

python benchmarks/report.py            rewrite the README
python benchmarks/report.py --check    exit status 1 if the README says something else
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- written by benchmarks/report.py -->", "<!-- end -->"


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(count: int) -> str:
    """Two or more significant digits."""
    return f"{count / 2**20:.3g}" if count < 100 * 2**20 else f"{count / 2**20:.0f}"


def spread(row: dict[str, Any], show: Any) -> str:
    """Median and the quartiles around it."""
    stats = row["stats"]
    return f"{show(stats['median'])} [{show(stats['q1'])}, {show(stats['q3'])}]"


def loss_table(run: dict[str, Any]) -> list[str]:
    """Rows of pairs: fastclr beside lightly and plain PyTorch."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in run["benchmarks"]:
        rows.setdefault(entry["extra_info"]["pairs"], {})[entry["extra_info"]["provider"]] = entry
    lines = [
        "| N (D = 128) | fastclr, ms | lightly, ms | faster | fastclr, extra MiB | lightly, extra MiB | less |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pairs, found in sorted(rows.items()):
        ours, theirs = found["fastclr"], found["lightly"]
        memory = [entry["extra_info"]["peak_bytes"] for entry in (ours, theirs)]
        speed = theirs["stats"]["median"] / ours["stats"]["median"]
        cells = [str(pairs), spread(ours, milliseconds), spread(theirs, milliseconds), f"{speed:.1f}x"]
        cells += [mebibytes(memory[0]), mebibytes(memory[1]), f"{memory[1] / memory[0]:.1f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def augment_table(run: dict[str, Any]) -> list[str]:
    """Views per second of every provider at 32 and at 224 pixels."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in run["benchmarks"]:
        rows.setdefault(entry["extra_info"]["provider"], {})[entry["group"]] = entry
    groups = sorted({entry["group"] for entry in run["benchmarks"]})

    def rate(entry: dict[str, Any]) -> float:
        return float(entry["extra_info"]["views"] / entry["stats"]["median"])

    lines = ["| two views per image | " + " | ".join(f"{g}, views/s | fastclr is faster" for g in groups) + " |"]
    lines.append("|---|" + "---:|---:|" * len(groups))
    for name, found in rows.items():
        cells = [name]
        for group in groups:
            if group not in found:
                cells += ["-", "-"]
                continue
            own = rate(found[group])
            cells += [f"{own:,.0f}", f"{rate(rows['fastclr'][group]) / own:.1f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def caption(what: str, name: str, run: dict[str, Any]) -> str:
    """Where, with what and how the table above was made."""
    machine, commit = run["machine_info"], run["commit_info"]
    info = run["benchmarks"][0]["extra_info"]
    dirty = ", with uncommitted changes" if commit["dirty"] else ""
    return (
        f"{what}; {info['threads']} threads of {machine['cpu']['brand_raw']}, PyTorch {info['torch']}, commit "
        f"{commit['id'][:10]}{dirty}; `make bench`, [{name}](benchmarks/results/{name})."
    )


def tables() -> str:
    """All tables as Markdown."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        run = json.loads(path.read_text())
        if path.name.startswith("loss-"):
            lightly = run["benchmarks"][0]["extra_info"]["lightly"]
            what = f"NT-Xent, forward and backward, float32, tau 0.1, lightly {lightly}: median [quartiles]"
            table = loss_table(run)
        else:
            photos = all(entry["extra_info"]["photos"] for entry in run["benchmarks"])
            what = f"SimCLR's augmentation, median; 224 px from {'photos (FASTCLR_TEST_DATA)' if photos else 'noise'}"
            table = augment_table(run)
        parts.append("\n".join([*table, "", caption(what, path.name, run)]))
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    """Rewrite or check the README."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    expected = f"{before}{BEGIN}\n{tables()}\n{END}{after}"
    if "--check" in arguments:
        return int(text != expected)
    readme.write_text(expected)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
