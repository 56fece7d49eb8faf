"""A finding of a paper as an experiment: its question, its conditions, and what must come out, fixed before the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastclr.bench.findings.condition import Condition

Numbers = Mapping[str, float]  # what was measured of a training
Scores = Mapping[str, Numbers]  # of every role, for one seed


@dataclass(frozen=True)
class Claim:
    """A number that must be positive.

    Args:
        title: what is claimed.
        effect: the number, from what was measured of the trainings of one seed.
        unit: of the effect: "points" of accuracy, or "nats".
        paper: the paper's effect, in the same unit, as text; empty where it gives none.
        primary: whether it decides about the finding; the others are shown beside it.
    """

    title: str
    effect: Callable[[Scores], float]
    unit: str = "points"
    paper: str = ""
    primary: bool = True


@dataclass(frozen=True)
class Finding:
    """What a paper found, and how it is checked.

    Args:
        name: for the command line.
        title: the finding, as a statement.
        question: what is asked of the user's images.
        source: paper, table or figure.
        roles: conditions by the part they play.
        claims: what must come out, the most important first; none for what is only described.
        tuned: roles whose rate is chosen on a seed of its own, with the candidates.
        tiers: where it belongs.
        small: why it may not replicate at a small scale; empty where nothing is known.
    """

    name: str
    title: str
    question: str
    source: str
    roles: Mapping[str, Condition]
    claims: tuple[Claim, ...] = ()
    tuned: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    tiers: tuple[str, ...] = ("cpu", "gpu")
    small: str = ""

    def cost(self) -> float:
        """Return what its conditions cost for a seed, as a multiple of the base's."""
        return sum(condition.cost for condition in self.roles.values())


def gap(name: str, more: str, less: str) -> Callable[[Scores], float]:
    """Return by how many points of `name` one role is ahead of another."""
    return lambda scores: 100 * (scores[more][name] - scores[less][name])


def within(role: str, more: str, less: str) -> Callable[[Scores], float]:
    """Return by how many points one number of a role is above another."""
    return lambda scores: 100 * (scores[role][more] - scores[role][less])
