"""The trainings that findings need, shared between them, in the order in which they run; and what is known of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastclr.bench.findings.condition import BASE, UNTRAINED, Condition
from fastclr.bench.findings.finding import Finding, Numbers
from fastclr.bench.findings.images import Images
from fastclr.bench.findings.tiers import Tier
from fastclr.files import read_json
from fastclr.training.config import PretrainConfig

TUNING_SEED = 0
DIVERGED: Numbers = {"linear": 0.0, "knn": 0.0}  # a training whose loss broke has learnt nothing


@dataclass(frozen=True)
class Task:
    """A condition to be trained with a seed."""

    condition: Condition
    seed: int

    @property
    def said(self) -> str:
        """How it is called in progress."""
        return f"{self.condition.name}, seed {self.seed}"


@dataclass
class Plan:
    """What is to be done, and what is done.

    Args:
        tier: base, seeds and images.
        findings: in order.
        data: ``shapes``, or what the user gave.
        fingerprint: of the images.
        folder: of the results, one file each.
        base: the tier's training on these images.
        done: results by key.
        failed: keys of what ended without a result.
        dropped: findings that the budget does not allow.
    """

    tier: Tier
    findings: Sequence[Finding]
    data: str
    fingerprint: str
    folder: Path
    base: PretrainConfig
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    dropped: list[Finding] = field(default_factory=list)
    _keys: dict[Task, str] = field(default_factory=dict)

    @property
    def seeds(self) -> range:
        """The paired seeds."""
        return range(self.tier.first_seed, self.tier.first_seed + self.tier.seeds)

    @property
    def images(self) -> Images:
        """What the trainings read."""
        return self.tier.images(self.data)

    def key(self, task: Task) -> str:
        """Return the name of a task's result."""
        if task not in self._keys:
            self._keys[task] = task.condition.key(self.base, task.seed, self.fingerprint)
        return self._keys[task]

    def measures(self, key: str) -> set[str]:
        """Return all that findings want measured of a training."""
        return {name for task in self.tasks() if self.key(task) == key for name in task.condition.measures}

    def read(self, task: Task) -> bool:
        """Take up the stored result of a task, if it has all the measures."""
        key = self.key(task)
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return False
        try:
            stored = read_json(path, {"status": str, "measures": list[str]})
        except ValueError:  # damaged: it is repeated
            return False
        if not self.measures(key) <= set(stored["measures"]):
            return False
        self.done[key] = stored
        return True

    def refresh(self) -> None:
        """Take up all results that are stored."""
        for task in [*self.gate(), *self.tasks()]:
            self.read(task)

    def gate(self) -> list[Task]:
        """Return the trainings that tell whether the tier can tell anything."""
        return [Task(condition, seed) for seed in self.seeds for condition in (UNTRAINED, BASE)]

    def tasks(self) -> Iterator[Task]:
        """Yield the trainings of all findings that are not dropped, as far as their rates are known."""
        for finding in self.findings:
            if finding not in self.dropped:
                yield from self.tasks_of(finding)

    def tasks_of(self, finding: Finding) -> Iterator[Task]:
        """Yield the trainings of a finding; those whose rate is not chosen yet come when it is."""
        for candidates in finding.tuned.values():
            for candidate in candidates:
                yield Task(candidate, TUNING_SEED)
        roles = self.roles(finding)
        for seed in self.seeds:
            for condition in roles.values():
                yield Task(condition, seed)

    def roles(self, finding: Finding) -> dict[str, Condition]:
        """Return the conditions of a finding by role, without those whose rate is not chosen yet."""
        found = dict(finding.roles)
        for role, candidates in finding.tuned.items():
            scores = [self.numbers(Task(candidate, TUNING_SEED)) for candidate in candidates]
            if any(score is None for score in scores):
                del found[role]
            else:
                ranked = zip(scores, candidates, strict=True)
                found[role] = max(ranked, key=lambda pair: float((pair[0] or DIVERGED)["linear"]))[1]
        return found

    def numbers(self, task: Task) -> Numbers | None:
        """Return what was measured of a task; None if it is not done."""
        stored = self.done.get(self.key(task))
        if stored is None:
            return None
        numbers: Numbers = stored["numbers"] if stored["status"] == "ok" else DIVERGED
        return numbers

    def left(self) -> list[Task]:
        """Return what can be done and is not, each training once."""
        found: dict[str, Task] = {}
        for task in [*self.gate(), *self.tasks()]:
            key = self.key(task)
            if key not in self.done and key not in self.failed:
                found.setdefault(key, task)
        return list(found.values())

    def cost_left(self) -> float:
        """Return what is left, as a multiple of the base's cost, trainings included whose rate is not chosen yet."""
        waiting = sum(
            finding.roles[role].cost * len(self.seeds)
            for finding in self.findings
            if finding not in self.dropped
            for role in set(finding.roles) - set(self.roles(finding))
        )
        return sum(task.condition.cost for task in self.left()) + waiting

    def unit(self) -> float | None:
        """Return the processor seconds of the base; None while they are unknown."""
        known = [self.done.get(self.key(Task(BASE, seed))) for seed in self.seeds]
        seconds = [float(stored["numbers"]["processor_s"]) for stored in known if stored and stored["status"] == "ok"]
        return statistics.median(seconds) if seconds else None

    def void(self) -> str:
        """Return why the tier tells nothing, or an empty text: its base does not beat the untrained network.

        Known when all trainings of the gate are done.
        """
        for seed in self.seeds:
            untrained, base = (self.numbers(Task(condition, seed)) for condition in (UNTRAINED, BASE))
            if untrained is None or base is None:
                return ""
            ahead = 100 * (base["knn"] - untrained["knn"])
            if ahead < self.tier.margin:
                return (
                    f"the base training learnt too little: with seed {seed} its kNN accuracy is "
                    f"{100 * base['knn']:.1f}%, that of the untrained network {100 * untrained['knn']:.1f}%, and "
                    f"{self.tier.margin:g} points more are needed before conditions can be compared"
                )
        return ""

    def spec(self, task: Task) -> str:
        """Return a task as the JSON that `fastclr.bench.findings.trial` reads."""
        condition = task.condition
        what = {
            "config": condition.config(self.base, task.seed).as_dict(),
            "branches": condition.branches,
            "trained": condition.trained,
            "measures": sorted(self.measures(self.key(task))),
            "images": vars(self.images),
        }
        return json.dumps(what, indent=1)
