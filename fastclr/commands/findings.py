"""`fastclr findings [run|report]`: what the papers found, checked on this machine and on the user's own images."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from fastclr.bench.findings.page import findings_page, verdict_rows
from fastclr.bench.findings.plan import Plan
from fastclr.bench.findings.record import make_record
from fastclr.bench.findings.runner import make_plan, run
from fastclr.bench.findings.tiers import FINDINGS, TIERS
from fastclr.device import available_cores
from fastclr.files import read_json, write_atomically, write_text_atomically
from fastclr.sources.printable import one_line, show

TierName = Literal["ci", "cpu", "gpu"]
GRID = "augmentation-grid"
USAGE = "fastclr findings run|report, each with --help"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Train what the findings need, judge them by a rule fixed before, write a page; goes on where it was stopped."""

    tier: TierName = "cpu"
    """`cpu`: 25 minutes on 2 cores. `gpu`: full-size trainings. `ci`: a few small ones."""
    only: tuple[str, ...] = ()
    """Findings to check, by name. `augmentation-grid` runs alone: 49 pairs."""
    data: str = "shapes"
    """The images, with labels: `shapes`, a folder, a tar, the name of a published set."""
    out: Path = Path("runs/findings")
    """Folder of the results."""
    seed: int = 1
    """The first of the paired seeds."""
    budget: float | None = None
    """Minutes; findings that do not fit are left out, the last ones first."""
    jobs: int = 0
    """Trainings at a time, with one thread each; 0: as many as there are free cores, at most 2 (with CUDA 1)."""
    swap: tuple[str, ...] = ()
    """Findings whose first two conditions are exchanged: a falsehood, to see that the suite can contradict."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise ValueError(f"budget must be a positive number of minutes, got {self.budget}")
        if self.seed < 1:
            raise ValueError(f"seed must be at least 1, 0 is for the choice of rates, got {self.seed}")
        if self.jobs < 0:
            raise ValueError(f"jobs must be at least 0, got {self.jobs}")

    @property
    def tier_name(self) -> str:
        """The tier: the grid is one of its own."""
        if GRID not in self.only:
            return self.tier
        if len(self.only) > 1 or self.tier != "cpu":
            raise ValueError(f"{GRID} runs alone, got --only {' '.join(self.only)} --tier {self.tier}")
        return "grid"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write the page of a suite again, and print its verdicts."""

    out: Path = Path("runs/findings")
    """Folder of the results."""


def main(arguments: list[str]) -> None:
    """List the findings, run them, or report."""
    if not arguments:
        show_list()
        return
    what, rest = arguments[0], arguments[1:]
    if what == "run":
        run_suite(tyro.cli(RunOptions, args=rest, prog="fastclr findings run"))
    elif what == "report":
        options = tyro.cli(ReportOptions, args=rest, prog="fastclr findings report")
        records = sorted(options.out.glob("findings-*.json"))
        if not records:
            raise FileNotFoundError(f"{options.out} holds no findings: fastclr findings run --out {options.out}")
        for record in records:
            show_record(read_json(record), options.out)
    elif what in ("-h", "--help"):
        show(f"usage: {USAGE}\n")
        show_list()
    else:
        raise ValueError(f"expected run or report, got {what!r}: {USAGE}")


def show_list() -> None:
    """Print what there is, and what each finding costs."""
    rows = [("finding", "tier", "cost", "")]
    for finding in FINDINGS.values():
        tier = TIERS[finding.tiers[0]]
        rows.append((finding.name, finding.tiers[0], f"{finding.cost() * tier.seeds:.0f}", finding.title))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        show("  ".join([*cells, row[3]]).rstrip())
    show(
        "\ncost: trainings of the base (the demo's, shorter: half a minute of a core), shared between findings.\n"
        f"The grid is run by --only {GRID}. Run them: fastclr findings run [--data PATH] [--budget MINUTES]"
    )


def run_suite(options: RunOptions) -> None:
    """Run the findings, and write record and page."""
    from tqdm.auto import tqdm

    tier = dataclasses.replace(TIERS[options.tier_name], first_seed=options.seed)
    plan = make_plan(options.out, tier, options.data, options.only, options.swap)
    jobs = options.jobs or (1 if tier.name == "gpu" else max(1, min(2, available_cores())))
    bar = tqdm(total=plan.cost_left(), unit="base", bar_format="{l_bar}{bar}| {elapsed} < {remaining}", smoothing=0.1)
    void = ""

    def progress(done: float, whole: float) -> None:
        bar.total, bar.n = whole, done
        bar.refresh()

    try:
        run(plan, options.out, jobs, options.budget, bar.write, progress)
    except ValueError as error:
        void = str(error)
    finally:
        bar.close()
        record = store(plan, options.out)
    show_record(record, options.out)
    if void:
        raise ValueError(void)


def store(plan: Plan, out: Path) -> dict[str, Any]:
    """Write the record of what is done so far, and return it."""
    record = make_record(plan, out)
    name = f"findings-{plan.tier.name}-{plan.tier.first_seed}.json"
    write_text_atomically(out / name, json.dumps(record, indent=1) + "\n")
    return record


def show_record(record: dict[str, Any], out: Path) -> None:
    """Write the page and print the verdicts."""
    path = out / "findings.html"
    content = findings_page(record)
    write_atomically(path, lambda file: file.write(content))
    for finding in record["findings"]:
        for _, claim, verdict, effect, interval, *_ in verdict_rows(finding):
            said = "  ".join(part for part in (claim, effect, interval) if part)
            show(one_line(f"{verdict:<13} {finding['name']:<18} {said}"))
    show(f"\n{path}")
