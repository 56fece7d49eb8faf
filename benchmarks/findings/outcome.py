"""From the results of a plan to effects and verdicts, as one record that the page and the tables are made of."""

from __future__ import annotations

import math
import statistics
from typing import Any

from fastclr.bench.findings.finding import Claim, Finding, Scores
from fastclr.bench.findings.plan import Plan, Task
from fastclr.bench.findings.verdict import NOT_RESOLVED, holm, judge

NOT_RUN = "not run"


def outcomes(plan: Plan) -> list[dict[str, Any]]:
    """Return the findings with scores, effects and verdicts, Holm's p over the primary claims of all of them."""
    found = [outcome(plan, finding) for finding in plan.findings]
    primary = {
        f"{each['name']}/{claim['title']}": claim["p"]
        for each in found
        for claim in each["claims"]
        if claim["primary"] and claim["p"] is not None
    }
    adjusted = holm(primary)
    for each in found:
        for claim in each["claims"]:
            claim["holm_p"] = adjusted.get(f"{each['name']}/{claim['title']}")
    return found


def outcome(plan: Plan, finding: Finding) -> dict[str, Any]:
    """Return a finding with what came out of it."""
    seeds = seed_scores(plan, finding)
    claims = [judged(claim, list(seeds.values())) for claim in finding.claims]
    verdicts = [claim["verdict"] for claim in claims if claim["primary"]]
    return {
        "name": finding.name,
        "title": finding.title,
        "question": finding.question,
        "source": finding.source,
        "small": finding.small,
        "seeds": list(seeds),
        "conditions": conditions(plan, finding, seeds),
        "claims": claims,
        "verdict": NOT_RUN if not seeds else together(verdicts),
    }


def together(verdicts: list[str]) -> str:
    """Return the verdict of a finding: what all its primary claims have in common, else `not resolved`.

    A finding of which nothing is claimed is `described`.
    """
    if not verdicts:
        return "described"
    return verdicts[0] if len(set(verdicts)) == 1 else NOT_RESOLVED


def seed_scores(plan: Plan, finding: Finding) -> dict[int, Scores]:
    """Return what was measured of all roles, for every seed of which all of them are done."""
    roles = plan.roles(finding)
    found: dict[int, Scores] = {}
    if len(roles) < len(finding.roles) or finding in plan.dropped:
        return found
    for seed in plan.seeds:
        numbers = {role: plan.numbers(Task(condition, seed)) for role, condition in roles.items()}
        done = {role: each for role, each in numbers.items() if each is not None}
        if len(done) == len(roles):
            found[seed] = done
    return found


def judged(claim: Claim, seeds: list[Scores]) -> dict[str, Any]:
    """Return a claim with its effect and verdict; one that cannot be computed, as after a broken loss, has none."""
    record: dict[str, Any] = {"title": claim.title, "unit": claim.unit, "paper": claim.paper, "primary": claim.primary}
    try:
        values = [claim.effect(scores) for scores in seeds]
    except KeyError as error:
        return record | {"verdict": NOT_RESOLVED, "p": None, "note": f"a training has no {error}: its loss broke"}
    if not values:
        return record | {"verdict": NOT_RUN, "p": None}
    effect = judge(values)

    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return record | {
        "values": list(effect.values),
        "mean": effect.mean,
        "low": known(effect.low),
        "high": known(effect.high),
        "p": known(effect.p),
        "verdict": effect.verdict,
    }


def conditions(plan: Plan, finding: Finding, seeds: dict[int, Scores]) -> list[dict[str, Any]]:
    """Return the conditions by role, each with the means of what was measured."""
    rows = []
    for role, condition in plan.roles(finding).items():
        numbers = [scores[role] for scores in seeds.values()]
        names = set.intersection(*(set(each) for each in numbers)) if numbers else set()
        means = {name: statistics.fmean(each[name] for each in numbers) for name in sorted(names)}
        spread = [each["linear"] for each in numbers]
        sd = statistics.stdev(spread) if len(spread) > 1 else None
        rows.append({"role": role, "name": condition.name, "means": means, "linear_sd": sd, "linear": spread})
    return rows
