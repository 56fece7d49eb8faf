"""The page that compares several runs: scores, cost, curves over each other, and the options in which they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from fastclr.files import fits, write_atomically
from fastclr.methods import METHODS
from fastclr.report.blocks import Block, Cell, Missing, Section, Table
from fastclr.report.material import Material, collect
from fastclr.report.pages import GENERATOR, page
from fastclr.report.run_sections import ABSENT, config_texts, state, training_charts
from fastclr.training.metric_names import KNN, LOSS, PEAK, PROCESSOR, SECONDS
from fastclr.training.results import current_results, percent, score_rows
from fastclr.training.run import Run

NOT_READ = Missing("The images were not read for this page.")
PROBES = ("probe-lbfgs", "probe-precomputed", "probe-augmented")


def write_comparison(runs: Sequence[Run], out: Path) -> Table:
    """Write one page that compares several runs, and return its first table; it reads only their folders, no images.

    Raises:
        ValueError: there are fewer than two runs, one is given twice, or `out` is an existing file but no report.
        OSError: the file could not be written.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs at least 2 runs, got {len(runs)}")
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("the runs must be distinct, but one is given twice")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out is in a folder that does not exist: {out.absolute().parent}")
    if out.exists() and GENERATOR.encode() not in out.read_bytes()[:2000]:
        raise ValueError(f"{out} exists and is not a fastclr report: choose another --out")
    materials = [collect(run, NOT_READ) for run in runs]
    names = distinct_names([run.folder for run in runs])
    table = summary_table(materials, names)
    sections = [
        Section("scores", "Scores", [table, score_comparison(materials, names)]),
        Section("training", "Training", [training_charts(materials, names, "epoch")]),
        Section("configuration", "Configuration", [difference_table(materials, names)]),
    ]
    contents = page(f"Comparison of {len(names)} runs", ", ".join(names), sections)
    write_atomically(out, lambda file: file.write(contents))
    return table


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return folder names, prefixed by as many parent folders as needed to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def summary_table(materials: Sequence[Material], names: Sequence[str]) -> Table:
    """Return a row for each run: its method, what it reached, and what that took."""
    caption = (
        "kNN and linear: as fastclr knn and fastclr probe stored them for the newest weights, the probe's protocol in "
        "brackets; kNN otherwise as last seen in training. "
        "Images: drawn in training. Seconds: of training, on the machine of each run, by the clock and of the "
        "processors of the first process, which other load changes less. Memory: its peak, on a GPU the device's."
    )
    rows = [(name, *summary(material)) for material, name in zip(materials, names, strict=True)]
    return Table(("run", "method", "kNN", "linear", "images", "seconds", "processor", "memory"), rows, caption)


def summary(material: Material) -> tuple[str, ...]:
    """Return the cells of a run: method, kNN, linear, images, seconds, processor seconds and peak memory."""
    config, results = material.run.config, current_results(material.run)
    shares = {name: entry.get("accuracy") for name, entry in results.items() if isinstance(entry, dict)}
    stored = {name: percent(share) for name, share in shares.items() if share is not None and fits(share, float)}
    seen = [percent(record[KNN]) for record in material.evaluations[-1:]]
    knn = stored["knn"] if "knn" in stored else next(iter(seen), ABSENT)
    probe = next((name for name in PROBES if name in stored), None)
    linear = ABSENT if probe is None else f"{stored[probe]} ({probe.removeprefix('probe-')})"
    last = material.train[-1] if material.train else {"step": 0, SECONDS: 0.0}
    spent = last.get(SECONDS, math.nan)
    seconds = f"{spent:,.0f}" if math.isfinite(spent) else ABSENT
    used = [record[PROCESSOR] for record in material.train if PROCESSOR in record]  # runs of before have none
    peaks = [record[PEAK] for record in material.train if PEAK in record]
    processor = f"{sum(used):,.0f}" if len(used) == len(material.train) > 0 else ABSENT
    memory = f"{max(peaks) / 2**20:,.0f} MiB" if peaks else ABSENT
    cost = f"{last['step'] * config.batch_size:,}", seconds, processor, memory
    return METHODS[config.method].title, knn, linear, *cost


def score_comparison(materials: Sequence[Material], names: Sequence[str]) -> Table:
    """Return all scores of several runs side by side, with their protocols."""
    columns = [{label: (score, protocol) for label, score, protocol in score_rows(m.run)} for m in materials]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    losses = (m.train[-1][LOSS] if m.train else math.nan for m in materials)
    rows: list[Sequence[str | Cell]] = [
        ("loss, last record", *(f"{loss:.3f}" if math.isfinite(loss) else ABSENT for loss in losses)),
        ("state", *(state(material) for material in materials)),
    ]
    rows += [(label, *(Cell(*column.get(label, (ABSENT, ""))) for column in columns)) for label in labels]
    return Table(("", *names), rows, "Scores side by side; protocols in small print.")


def difference_table(materials: Sequence[Material], names: Sequence[str]) -> Block:
    """Return the options in which the runs differ."""
    configs = [config_texts(material.run.config) for material in materials]
    fields = dict.fromkeys(field for config in configs for field in config)
    every = [(field, *(config.get(field, ABSENT) for config in configs)) for field in fields]
    rows = [row for row in every if len(set(row[1:])) > 1]
    if not rows:
        return Missing("The runs have the same configuration.")
    return Table(("option", *names), rows, "Options that differ; all others are the same.")
