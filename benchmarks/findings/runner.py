"""Does the trainings of a plan, some at a time, within a budget, and goes on where it was stopped or killed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastclr import __version__
from fastclr.bench.findings import trial
from fastclr.bench.findings.finding import Finding
from fastclr.bench.findings.plan import Plan, Task
from fastclr.bench.findings.tiers import FINDINGS, Tier
from fastclr.bench.findings.verdict import RULE
from fastclr.bench.jobs import Pool
from fastclr.files import locked, make_folder, read_json, refuse_other, write_text_atomically

Say = Callable[[str], None]
Progress = Callable[[float, float], None]
TAIL = 2000  # characters of what a failed training said
ANOTHER = "use another --out"


class Failed(RuntimeError):
    """Trainings ended without a result."""


def chosen(tier: Tier, only: Sequence[str]) -> list[Finding]:
    """Return the findings to check.

    Raises:
        ValueError: a name is not one of them, or it does not belong to the tier.
    """
    known = {finding.name: finding for finding in tier.findings()}
    for name in only:
        if name not in FINDINGS:
            raise ValueError(f"a finding must be one of {', '.join(FINDINGS)}, got {name!r}")
        if name not in known:
            raise ValueError(f"{name} belongs to --tier {' or '.join(FINDINGS[name].tiers)}, got {tier.name}")
    return [finding for name, finding in known.items() if not only or name in only]


def make_plan(out: Path, tier: Tier, data: str, only: Sequence[str], swap: Sequence[str] = ()) -> Plan:
    """Read the images, fix what is to come out, and take up the results that are in `out`.

    Raises:
        ValueError: the images do not fit, there is no such finding, or `out` holds another suite.
    """
    findings = [swapped(finding) if finding.name in swap else finding for finding in chosen(tier, only)]
    images = tier.images(data)
    splits = images.load(out / "cache")
    if splits.test is None:
        raise ValueError(f"{data} has no test images")
    fingerprint = f"{splits.train.fingerprint}-{splits.test.fingerprint}"
    base = tier.on(data)
    make_folder(out / "results")
    fixed = {
        "fastclr": __version__,  # trainings of two versions make no suite
        "rule": RULE,
        "tier": tier.name,
        "seeds": list(range(tier.first_seed, tier.first_seed + tier.seeds)),
        "data": data if data == "shapes" else str(Path(data).absolute()) if Path(data).exists() else data,
        "images": [len(splits.train), len(splits.test)],
        "fingerprint": fingerprint,
        "base": json.loads(json.dumps(base.as_dict())),
    }
    stored = out / "suite.json"
    if stored.is_file():
        refuse_other(read_json(stored), fixed, stored, ANOTHER)
    else:
        write_text_atomically(stored, json.dumps(fixed, indent=1) + "\n")
    plan = Plan(tier, findings, data, fingerprint, out / "results", base)
    plan.refresh()
    return plan


def swapped(finding: Finding) -> Finding:
    """Return a finding whose first two roles have each other's conditions: a falsehood, which must be contradicted."""
    first, second, *_ = finding.roles
    roles = {**finding.roles, first: finding.roles[second], second: finding.roles[first]}
    return dataclasses.replace(finding, roles=roles)


def run(plan: Plan, out: Path, jobs: int, budget: float | None, say: Say, progress: Progress) -> None:
    """Do all trainings that are left.

    Args:
        plan: what to do.
        out: the folder; a lock keeps two runs out of it.
        jobs: trainings at a time.
        budget: minutes that all of it may take; findings are dropped from the end. None for no limit.
        say: takes a line.
        progress: takes the cost that is done and the whole cost, in multiples of the base's.

    Raises:
        ValueError: the base learnt too little, so that nothing can be compared.
        Failed: a training ended without a result.
        BlockingIOError: another process works in `out`.
    """
    work = out / "work"
    make_folder(work)
    start = time.monotonic()
    with locked(work / ".lock", f"another process works in {out}"):
        for left in work.glob("tmp*"):  # of trainings that were killed
            shutil.rmtree(left)
        plan.refresh()
        runner = Runner(plan, work, out / "cache", say, progress)
        runner.pool(jobs, plan.gate)
        reason = plan.void()
        if reason:
            raise ValueError(reason)
        if budget is not None:
            fit(plan, jobs, budget - (time.monotonic() - start) / 60, say)
        runner.pool(jobs, plan.left)
    if plan.failed:
        raise Failed(f"{len(plan.failed)} trainings ended without a result; what they said stands above")


def fit(plan: Plan, jobs: int, minutes: float, say: Say) -> None:
    """Drop findings from the end until the rest fits the minutes that are left, by the time that the base took."""
    unit = plan.unit()
    if unit is None:
        return
    for finding in reversed(plan.findings):
        if plan.cost_left() * unit / jobs / 60 <= minutes:
            return
        plan.dropped.append(finding)
        say(f"{finding.name} does not fit the budget and is left out")


class Runner:
    """Starts trainings and takes up their results."""

    def __init__(self, plan: Plan, work: Path, cache: Path, say: Say, progress: Progress) -> None:
        self.plan, self.work, self.cache, self.say, self.progress = plan, work, cache, say, progress
        self.cost = 0.0

    def pool(self, jobs: int, wanted: Callable[[], list[Task]]) -> None:
        """Do what is wanted and not done, `jobs` at a time."""

        def following(running: Sequence[Task]) -> Task | None:
            busy = {self.plan.key(task) for task in running}
            known = self.plan.done.keys() | self.plan.failed | busy
            return next((task for task in wanted() if self.plan.key(task) not in known), None)

        self.progress(self.cost, self.cost + self.plan.cost_left())
        Pool(jobs, following, trial.main, self.arguments, self.log, self.ended).run()

    def log(self, task: Task) -> Path:
        """Return the file for what a training says."""
        return self.work / f"{self.plan.key(task)}.log"

    def arguments(self, task: Task) -> list[str]:
        """Write down what a training is to do, and return the arguments of its process."""
        key = self.plan.key(task)
        described = self.work / f"{key}.json"
        write_text_atomically(described, self.plan.spec(task))
        arguments = {
            "--out": self.plan.folder / f"{key}.json",
            "--work": self.work,
            "--cache": self.cache,
        }
        named = [str(part) for pair in arguments.items() for part in pair]
        return [str(described), *named]

    def ended(self, task: Task, status: int) -> None:
        """Take up a result, or say what the training said."""
        if not self.plan.read(task):
            self.plan.failed.add(self.plan.key(task))
            said = self.log(task).read_text(errors="replace")[-TAIL:]
            self.say(f"{task.said}: ended with status {status} and no result\n{said}")
            return
        result = self.plan.done[self.plan.key(task)]
        self.cost += task.condition.cost
        outcome = result.get("note", "")
        if result["status"] == "ok":
            numbers = result["numbers"]
            outcome = f"linear {100 * numbers['linear']:.1f}%, kNN {100 * numbers['knn']:.1f}%"
        self.say(f"{task.said}: {outcome}")
        self.progress(self.cost, self.cost + self.plan.cost_left())
