"""Verdicts by a rule that is fixed before a run: the signs of all seeds, and the interval of the mean effect.

With d_s the effect of seed s, the trainings of a seed being paired, m their mean and sd their standard deviation, the
95% interval is ``m +- t(0.975, n - 1) sd / sqrt(n)``. A claim holds if all d_s are positive and the interval is above
0, is contradicted if the same is true of -d_s, and otherwise is not resolved: so is anything of fewer than three seeds.
Holm's adjusted p of the same t test stands beside it and decides nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

HOLDS, CONTRADICTED, NOT_RESOLVED = "holds", "contradicted", "not resolved"
LEVEL = 0.95
FEWEST = 3
RULE = (
    f"holds: the effect is positive for every seed, of at least {FEWEST}, and its {LEVEL:.0%} t interval excludes 0; "
    "contradicted: the same of the opposite effect; otherwise not resolved"
)


@dataclass(frozen=True)
class Effect:
    """The effect over the seeds, in the claim's unit; the interval is nan without `FEWEST` seeds."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float
    verdict: str


def judge(values: Sequence[float]) -> Effect:
    """Return the effect of the seeds' values, and its verdict.

    Raises:
        ValueError: there are none, or they are not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"effects must be finite numbers, at least one, got {list(values)}")
    mean, count = statistics.fmean(values), len(values)
    if count < FEWEST:
        return Effect(tuple(values), mean, math.nan, math.nan, math.nan, NOT_RESOLVED)
    error = statistics.stdev(values) / math.sqrt(count)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    low, high = mean - reach, mean + reach
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0.0)
    verdict = NOT_RESOLVED
    if min(values) > 0 and low > 0:
        verdict = HOLDS
    elif max(values) < 0 and high < 0:
        verdict = CONTRADICTED
    return Effect(tuple(values), mean, low, high, p, verdict)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p values; those that are nan stay so and do not count.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    adjusted, highest = dict(p), 0.0
    for rank, (value, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = highest
    return adjusted
