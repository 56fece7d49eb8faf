"""Runs suites within a time limit, the most important cases first, and resumes where an earlier call stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

from fastclr.bench import augment_peers, loss_peers, machine
from fastclr.bench.augment_cases import AugmentCase
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_cases import LossCase
from fastclr.bench.rows import OURS, Contestant, Row
from fastclr.bench.table import text_table
from fastclr.bench.timing import Effort
from fastclr.files import write_text_atomically

FORMAT = 2
# suite -> how many of its cases are headlines, which all run before the rest
SUITES = {"loss": 3, "contrast": 5, "gram": 4, "augment": 2}
SUITES |= {"step": 1, "loader": 1, "distributed": 1, "overhead": 1, "busy": 1}
# budget factor of headlines on a CPU: samples must outlast speed changes, every ten seconds or so on a shared machine
LONGER = 3.0
SAME = ("device", "cpu", "gpu", "commit", "dirty", "versions", "threads", "malloc", "rehearsal")


class Case(Protocol):
    """One workload of a suite."""

    @property
    def name(self) -> str:
        """Unique within the suite and the device."""

    def toy(self) -> Case:
        """The same case at a size that takes a fraction of a second."""

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""


@dataclass(frozen=True)
class Planned:
    """A case and the suite it belongs to."""

    suite: str
    case: Case
    headline: bool = False


def plan(suites: Sequence[str], device: torch.device) -> list[Planned]:
    """Return the cases of some suites on a device: the headlines of each, then the rest of each.

    Raises:
        ValueError: a suite is unknown.
    """
    if unknown := sorted(set(suites) - set(SUITES)):
        raise ValueError(f"suites must be among {', '.join(SUITES)}, got {', '.join(unknown)}")
    lists = {suite: cases(suite, device) for suite in SUITES if suite in suites}
    headlines = [Planned(suite, case, True) for suite, found in lists.items() for case in found[: SUITES[suite]]]
    rest = [Planned(suite, case) for suite, found in lists.items() for case in found[SUITES[suite] :]]
    return headlines + rest


@dataclass(frozen=True)
class Joined:
    """A workload of the loss or the augmentation, joined with the libraries compared on it."""

    workload: LossCase | AugmentCase

    @property
    def name(self) -> str:
        """Name of the workload."""
        return self.workload.name

    def toy(self) -> Joined:
        """The same case at a size that takes a fraction of a second."""
        return Joined(self.workload.toy())

    def contestants(self) -> list[Contestant]:
        """All contestants for this workload."""
        if isinstance(self.workload, LossCase):
            return loss_peers.contestants(self.workload)
        return augment_peers.contestants(self.workload)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all contestants, or those named by `only`."""
        chosen = [contestant for contestant in self.contestants() if not only or contestant.name in only]
        return self.workload.run(ceilings, effort, chosen)


def cases(suite: str, device: torch.device) -> list[Case]:
    """Return the cases of one suite, the most important first."""
    if suite in ("loss", "augment"):
        return [Joined(workload) for workload in import_module(f"fastclr.bench.{suite}_cases").cases(device)]
    found: list[Case] = import_module(f"fastclr.bench.{suite}").cases(device)
    return found


def run_suites(
    planned: Sequence[Planned],
    device: torch.device,
    path: Path,
    effort: Effort,
    *,
    seconds: float = float("inf"),
    again: bool = False,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Run the planned cases that are not in `path` yet; the file is valid after every case.

    Args:
        planned: cases in the order to run them.
        device: where they run.
        path: JSON file of results, new or from an earlier call.
        effort: time for each case.
        seconds: no case starts later than this after the call.
        again: also rerun cases that are in `path` already; the file's other cases stay.
        say: takes a line of progress.

    Returns:
        All rows of the file.

    Raises:
        ValueError: `path` has results of another machine, version or commit.
        RuntimeError: a case broke the CUDA device; the cases before it are in `path`.
    """
    begin = time.monotonic()
    here = machine.describe(device) | {"rehearsal": effort.toy}
    asked = {(p.suite, p.case.name) for p in planned}
    stored = read(path) if path.exists() else None
    if stored is not None and again:
        stored["rows"] = [row for row in stored["rows"] if (row["suite"], row["case"]) not in asked]
        stored = stored if stored["rows"] else None
    if stored is not None:
        check_same(path, stored["machine"], here)
    rows = [] if stored is None else [Row.from_json(row) for row in stored["rows"]]
    # cases that an earlier call left over and this one does not cover
    elsewhere = set(stored["missing"] if stored else []) - {f"{suite}/{case}" for suite, case in asked}
    ceilings = Ceilings(device, effort.toy, dict(stored["ceilings"]) if stored else {})
    commands = list(dict.fromkeys([*(stored["commands"] if stored else []), machine.command_line()]))
    if machine.is_busy(here):
        say(machine.busy_text(here))
    done = {(row.suite, row.case) for row in rows}
    left = [p for p in planned if (p.suite, p.case.name) not in done]
    if len(left) < len(planned):
        say(f"{path}: {len(planned) - len(left)} case(s) are there already")
    while left and time.monotonic() - begin < seconds:
        current = left.pop(0)
        found = attempted(current, ceilings, effort)
        broken = device_error(device)
        if broken:  # results after the failure are worthless
            found = [failed(current, f"broke the device: {broken}")]
        rows += found
        missing = [f"{p.suite}/{p.case.name}" for p in left] + sorted(elsewhere)
        write(path, here, ceilings, commands, rows, missing)
        say(text_table(f"{current.suite}: {current.case.name}", found))
        if broken:
            raise RuntimeError(f"{current.suite}/{current.case.name} broke the device: run the command again to resume")
    if left:
        say(f"stopped after {time.monotonic() - begin:.0f} s with {len(left)} case(s) to go: run the command again")
    return rows


def device_error(device: torch.device) -> str:
    """Return why this process can no longer use a CUDA device, or an empty string.

    An out-of-bounds access in one contestant's kernel makes every later call fail.
    """
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def attempted(planned: Planned, ceilings: Ceilings, effort: Effort) -> list[Row]:
    """Run a case; if the whole case fails, the suite continues and a row of fastclr records it."""
    if planned.headline and ceilings.device.type == "cpu":
        effort = replace(effort, budget_s=LONGER * effort.budget_s)
    try:
        return planned.case.run(ceilings, effort)
    except Exception as error:
        return [failed(planned, f"{type(error).__name__}: {error}")]


def failed(planned: Planned, note: str) -> Row:
    """Return the row of a case that failed as a whole."""
    return Row(suite=planned.suite, case=planned.case.name, provider=OURS, status="failed", note=note[:500])


def read(path: Path) -> dict[str, Any]:
    """Read a file of results.

    Raises:
        ValueError: it is not one, or has another format.
    """
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a results file: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"{path} must contain results of format {FORMAT}")
    return stored


def write(
    path: Path,
    here: dict[str, Any],
    ceilings: Ceilings,
    commands: list[str],
    rows: Sequence[Row],
    missing: Sequence[str],
) -> None:
    """Write a file of results atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "format": FORMAT,
        "machine": here,
        "commands": commands,
        "ceilings": ceilings.rates,
        "missing": list(missing),
        "rows": [row.as_json() for row in rows],
    }
    text = json.dumps(contents, indent=1) + "\n"
    write_text_atomically(path, text)


def check_same(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError if results of two machines, versions or commits would end up in one file."""
    for name in SAME:
        if then.get(name) != now.get(name):
            raise ValueError(
                f"{path} has results of {name} {then.get(name)!r}, this is {now.get(name)!r}: use another folder"
            )


def failures(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of fastclr that are wrong or failed; for other libraries these are results too."""
    return [row for row in rows if row.provider.startswith(OURS) and row.status in ("wrong", "failed")]


def results_path(folder: Path, device: torch.device, name: str = "") -> Path:
    """Return the path of this machine's file in `folder`, or of one of its files."""
    return folder / f"{machine.slug(machine.describe(device))}{name and f'-{name}'}.json"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; return 1 if fastclr failed somewhere, 2 for bad input."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m fastclr.bench", description=__doc__)
    parser.add_argument("--suites", default=",".join(SUITES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="folder of results (default: %(default)s)"
    )
    parser.add_argument("--name", default="", help="of this selection of suites, which then has a file of its own")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no case after this many minutes")
    parser.add_argument("--budget", type=float, help="seconds of samples per case (default: 20 on a CPU, 3 on a GPU)")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, one sample: checks that everything runs")
    parser.add_argument("--again", action="store_true", help="repeat cases that an earlier call measured")
    parser.add_argument("--headlines", action="store_true", help="only the most important cases of every suite")
    parser.add_argument("--keep-freed", action="store_true", help="on a CPU: make the C library keep freed memory")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: all cores; one in rehearsals)")
    options = parser.parse_args(arguments)
    from fastclr.device import resolve_device

    try:
        device = resolve_device(options.device)
        if options.threads or device.type == "cpu":
            torch.set_num_threads(options.threads or (1 if options.rehearse else len(os.sched_getaffinity(0))))
        if options.keep_freed and not (device.type == "cpu" and machine.keep_freed_memory()):
            raise ValueError("--keep-freed needs a CPU and glibc")
        planned = plan(options.suites.split(","), device)
        if options.headlines:
            planned = [p for p in planned if p.headline]
        if options.rehearse:
            planned = list({(p.suite, p.case.toy().name): Planned(p.suite, p.case.toy()) for p in planned}.values())
        budget = options.budget or (3.0 if device.type == "cuda" else 20.0)
        path = results_path(options.out, device, options.name)
        effort = Effort(budget, options.rehearse)
        rows = run_suites(planned, device, path, effort, seconds=60 * options.minutes, again=options.again)
    except (ValueError, OSError) as error:
        print(f"fastclr.bench: error: {error}", file=sys.stderr)
        return 2
    print(path)
    for row in failures(rows):
        print(f"FAILED {row.suite}/{row.case}: {row.provider}: {row.note}", file=sys.stderr)
    return int(bool(failures(rows)))
