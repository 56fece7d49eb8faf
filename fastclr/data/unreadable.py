"""What the loaders that decode while training share: replacing images that cannot be read, and reporting them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from fastclr.data.decode_many import explain
from fastclr.data.indexed_set import ImageIndex
from fastclr.device import available_cores, local_processes

T = TypeVar("T")


# so many unreadable images in a row mean that something else is wrong, such as a disk that is gone
MAX_REPLACEMENTS = 64


# rows that could not be read, and why
Failures = list[tuple[int, str]]


class UnreadableError(ValueError):
    """Too many images in a row cannot be read."""


def first_readable(candidates: Iterable[int], read: Callable[[int], T]) -> tuple[int, T, Failures]:
    """Return the first row of ``candidates`` that ``read`` can read, what it returns, and the rows that it cannot.

    Raises:
        UnreadableError: ``MAX_REPLACEMENTS`` rows in a row cannot be read, or all of them.
    """
    failures: Failures = []
    for row in candidates:
        try:
            return row, read(row), failures
        except Exception as error:
            failures.append((row, explain(error)))
        if len(failures) == MAX_REPLACEMENTS:
            break
    raise UnreadableError(f"{len(failures)} images in a row cannot be read; the last: {failures[-1][1]}")


def record_unreadable(index: ImageIndex, failures: Failures, skipped: dict[str, str]) -> None:
    """Add unreadable images to ``skipped`` (name to reason), with a warning for each that is new."""
    for row, reason in failures:
        name = index.names[row]
        if name not in skipped:
            skipped[name] = reason
            # names may hold what a terminal cannot show
            warnings.warn(f"{name!a} of {index.source} is left out: {reason}", RuntimeWarning, stacklevel=3)


def default_workers() -> int:
    """Return how many workers one process of a job takes: the cores of this machine, shared by its processes."""
    return max(available_cores() // local_processes(), 1)


def check_loader_arguments(workers: int, prefetch: int, resize_shorter: int | None, least_workers: int) -> None:
    """Raise ValueError when an argument of a loader that streams is out of range."""
    if workers < least_workers:
        raise ValueError(f"workers must be at least {least_workers} or None, got {workers}")
    if prefetch < 1:
        raise ValueError(f"prefetch must be at least 1, got {prefetch}")
    if resize_shorter is not None and resize_shorter < 1:
        raise ValueError(f"resize_shorter must be at least 1 or None, got {resize_shorter}")


def with_resize(index: ImageIndex, resize_shorter: int | None) -> ImageIndex:
    """Return ``index`` with another size to bring images down to; None keeps what it says."""
    return index if resize_shorter is None else replace(index, resize_shorter=resize_shorter)
