"""What a benchmark returns: one row per contestant of a case, whether it could be timed or not."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

OURS = "fastclr"
NOISY = 0.15  # a spread [p20, p80] wider than this fraction of the median counts as noisy

Status = Literal["ok", "not installed", "unsuitable", "wrong", "out of memory", "failed"]
# stages in order; each gets the previous stage's result, the first gets None
Program = Mapping[str, Callable[[Any], Any]]


class Unsuitable(Exception):
    """The contestant cannot do this workload; the message says why."""


class WrongResultError(Exception):
    """The contestant computes something else; `error` is how far off it is."""

    def __init__(self, error: float, limit: float, what: str) -> None:
        super().__init__(f"{what}: relative error {error:.1e}, limit {limit:.0e}")
        self.error = error


@dataclass(frozen=True)
class Attempt:
    """A contestant ready to run: its program, and its gate, which runs the program once and returns the error.

    Args:
        program: the stages of one run.
        check: the gate; raises WrongResultError if the relative error is beyond the limit.
        work: units (pairs, views, images) of one run.
        allocates: whether a run allocates its memory; a replayed CUDA graph has done so before.
    """

    program: Program
    check: Callable[[], float | None]
    work: int
    allocates: bool = True


@dataclass(frozen=True)
class Contestant:
    """A library on a workload.

    Args:
        name: as shown in tables.
        prepare: builds the attempt; raises ModuleNotFoundError or Unsuitable.
        packages: the distributions whose versions the row reports.
        note: its settings, or what it does differently.
    """

    name: str
    prepare: Callable[[], Attempt]
    packages: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """Median and the 20th and 80th percentile of n samples."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(samples: Sequence[float]) -> Spread:
        """Summarise at least one sample."""
        if len(samples) == 1:
            return Spread(samples[0], samples[0], samples[0])
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return Spread(statistics.median(samples), tenths[1], tenths[7])

    @property
    def noisy(self) -> bool:
        """Whether [p20, p80] is wider than `NOISY` times the median."""
        return self.p80 - self.p20 > NOISY * abs(self.median)


@dataclass(kw_only=True)
class Row:
    """One contestant on one case; times are seconds per run, `ratio` is its time per unit of work over `reference`'s.

    Ratios are taken round by round, so that a machine that slows down slows both. The reference is the first
    contestant of fastclr that could be timed.
    """

    suite: str
    case: str
    provider: str
    status: Status
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    work: int = 0
    n: int = 0
    inner: int = 0
    time: Spread | None = None
    stages: dict[str, Spread] = field(default_factory=dict)
    ratio: Spread | None = None
    reference: str = ""
    error: float | None = None
    peak_bytes: int | None = None
    floor_s: float | None = None

    @property
    def rate(self) -> float | None:
        """Units of work per second."""
        return self.work / self.time.median if self.time else None

    @property
    def share(self) -> float | None:
        """Floor over median: 1 is as fast as the ceilings of the machine allow."""
        return self.floor_s / self.time.median if self.time and self.floor_s else None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values, without empty ones."""
        values = dataclasses.asdict(self) | {"share": self.share}
        return {name: value for name, value in values.items() if value not in (None, {}, "")}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Row:
        """Read what `as_json` wrote."""
        known = {f.name for f in dataclasses.fields(Row)}
        plain: dict[str, Any] = {name: value for name, value in values.items() if name in known}
        for name in ("time", "ratio"):
            if name in plain:
                plain[name] = Spread(**plain[name])
        plain["stages"] = {name: Spread(**value) for name, value in plain.get("stages", {}).items()}
        return Row(**plain)
