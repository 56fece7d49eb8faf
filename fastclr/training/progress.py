"""What a training shows of itself: one bar over all of its steps, or lines, with the time that is left."""

from __future__ import annotations

import itertools
import time
from typing import Any

from fastclr.training.metric_names import LOSS, RANK, SPEED, is_share, short_name
from fastclr.training.run import Run

QUIET = 60.0  # seconds after which a training without a bar says how far it is


class Progress:
    """A bar of the whole run on a terminal and in a notebook; elsewhere a line a minute within a long epoch.

    Args:
        run: whose `say` and `bar` are used.
        epochs: of the whole run.
        steps: of an epoch.
        done: steps of the run that are done.
        bar: whether a bar may be shown.
        speaks: whether this process says anything.
    """

    def __init__(self, run: Run, epochs: int, steps: int, done: int, *, bar: bool, speaks: bool) -> None:
        self.run, self.epochs, self.steps, self.done, self.speaks = run, epochs, steps, done, speaks
        self.bar: Any = run.bar(epochs * steps, done, self.title(done), bar and speaks)
        self.record: dict[str, Any] | None = None
        self.score = ""
        # the first step compiles and tunes, and says nothing about the others
        self.first: tuple[float, int] | None = None
        self.spoken = time.monotonic()

    def title(self, done: int) -> str:
        """Return the name of the epoch in which a step lies."""
        return f"epoch {min(done // self.steps + 1, self.epochs)}/{self.epochs}"

    def update(self) -> None:
        """Count a step."""
        if self.done % self.steps == 0:
            self.bar.set_description_str(self.title(self.done), refresh=False)
        self.done += 1
        self.first = self.first or (time.monotonic(), self.done)
        self.bar.update()

    def show(self, record: dict[str, Any]) -> None:
        """Show a record of the log."""
        self.record = record
        self.bar.set_postfix_str(", ".join(filter(None, (summary(record), self.score))))
        within = self.done % self.steps
        if self.speaks and self.bar.disable and within and time.monotonic() - self.spoken > QUIET:
            self.say(f"{self.title(self.done)}, step {within} of {self.steps}")

    def end_epoch(self) -> None:
        """Say how the epoch ended, if anything of it was recorded."""
        if self.speaks and self.record is not None:
            self.say(self.title(self.done - 1))
        self.record = None

    def say(self, start: str) -> None:
        """Say what was recorded last, and how long the rest will take."""
        record = self.record or {}
        parts = [summary(record), f"{record[SPEED]:.0f} images/s", self.left()]
        self.run.say(f"{start}: {', '.join(filter(None, parts))}")
        self.spoken = time.monotonic()

    def left(self) -> str:
        """Return how long the remaining steps will take, evaluations and checkpoints like those so far included."""
        if self.first is None or self.done == self.first[1] or self.done >= self.epochs * self.steps:
            return ""
        since, before = self.first
        each = (time.monotonic() - since) / (self.done - before)
        return f"{in_words(each * (self.epochs * self.steps - self.done))} left"

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    whole = round(seconds)
    for (size, name), (smaller, below) in itertools.pairwise(units):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def summary(record: dict[str, Any]) -> str:
    """Return the loss, accuracies and health of a log record as short text."""
    parts = [f"loss {record[LOSS]:.3f}"]
    parts += [f"{short_name(name).replace('_', ' ')} {record[name]:.2f}" for name in record if is_share(name)]
    return ", ".join([*parts, f"rank {record[RANK]:.0f}"] if RANK in record else parts)
