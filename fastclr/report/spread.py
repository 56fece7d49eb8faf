"""Smallest, median and largest of some numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some numbers."""

    min: float
    median: float
    max: float


def spread(numbers: Iterable[int]) -> Spread:
    """Return the spread of at least one number."""
    values = list(numbers)
    return Spread(min(values), median(values), max(values))
