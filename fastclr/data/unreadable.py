"""What DaliLoader and TorchLoader share: checks, and replacing and reporting unreadable images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from fastclr.data.decode_many import DecodeOptions
from fastclr.data.indexed_set import ImageIndex
from fastclr.device import available_cores, local_processes
from fastclr.sources.decode import OTHER_DECODING_BYTES, explain
from fastclr.sources.remarks import summarise

T = TypeVar("T")

# this many unreadable images in a row mean that something else is wrong, such as a missing disk
MAX_REPLACEMENTS = 64

# rows that could not be read, each with the reason
Failures = list[tuple[int, str]]


class RemarkSummary:
    """Counts the remarks of decoders about the images of a loader, and gives their number once."""

    def __init__(self, source: str) -> None:
        """Nothing was said yet."""
        self._source, self._told = source, False

    def add(self, count: int) -> None:
        """Give the number of remarks of one epoch, unless that was done for an earlier one."""
        if count and not self._told:
            self._told = True
            summarise(self._source, count)


@dataclass
class UnreadableError(Exception):
    """Too many images in a row cannot be read: how many, the row of the last one, and the reason."""

    count: int
    row: int
    reason: str

    def named(self, index: ImageIndex) -> ValueError:
        """Return the error to raise where names are known."""
        last = f"the last, {index.names[self.row]!a}: {self.reason}"
        return ValueError(f"{self.count} images of {index.source} in a row cannot be read; {last}")


def first_readable(candidates: Iterable[int], read: Callable[[int], T]) -> tuple[int, T, Failures]:
    """Return the first row of ``candidates`` that ``read`` can read, its result, and the failures before it.

    Raises:
        UnreadableError: ``MAX_REPLACEMENTS`` rows in succession cannot be read, or none can.
    """
    failures: Failures = []
    for row in candidates:
        try:
            return row, read(row), failures
        except Exception as error:
            failures.append((row, explain(error)))
        if len(failures) == MAX_REPLACEMENTS:
            break
    raise UnreadableError(len(failures), *failures[-1])


def record_unreadable(index: ImageIndex, failures: Failures, skipped: dict[str, str]) -> None:
    """Add unreadable images to ``skipped`` (name to reason), and warn about each that is new."""
    for row, reason in failures:
        name = index.names[row]
        if name not in skipped:
            skipped[name] = reason
            # ascii, because names may contain characters that a terminal cannot show
            warnings.warn(f"{name!a} of {index.source} is left out: {reason}", RuntimeWarning, stacklevel=3)


def default_workers() -> int:
    """Return how many workers one process of a job uses: its share of this machine's cores, at least one."""
    return max(available_cores() // local_processes(), 1)


def check_loader_arguments(workers: int, prefetch: int, resize_shorter: int | None, least_workers: int) -> None:
    """Raise ValueError if an argument of a loader that decodes is out of range."""
    if workers < least_workers:
        raise ValueError(f"workers must be at least {least_workers} or None, got {workers}")
    if prefetch < 1:
        raise ValueError(f"prefetch must be at least 1, got {prefetch}")
    if resize_shorter is not None and resize_shorter < 1:
        raise ValueError(f"resize_shorter must be at least 1 or None, got {resize_shorter}")


class TooMuchAheadError(ValueError):
    """The batches that a loader would hold at a time do not fit into memory: a smaller batch may."""


def check_waiting(index: ImageIndex, batch_size: int, batches: int, workers: int) -> None:
    """Raise TooMuchAheadError if the images that a loader holds at a time are too many for the memory.

    Args:
        index: the images.
        batch_size: images of a step, from which views are made.
        batches: decoded batches that exist at a time at most.
        workers: threads or processes that each decode one image at a time, at worst the largest ones.
    """
    size = min(batch_size, len(index))
    largest = index.sizes.prod(dim=1).topk(min(workers, len(index))).values.sum()
    needed = size * (index.nbytes / max(len(index), 1) * batches + index.view_bytes)
    needed += OTHER_DECODING_BYTES * int(largest)
    # values of other types, and one image in bytes, take more than Pillow's pixels
    needed += 2 * index.reading.channels * int(largest) if index.reading.channels != 3 else 0
    limit = DecodeOptions(memory_limit=index.memory_limit).budget()
    if needed > limit:
        raise TooMuchAheadError(
            f"batches that are decoded ahead and the views of a step take about {needed / 1e9:.3g} GB, and "
            f"{limit / 1e9:.3g} GB may be used: choose fewer workers, a smaller prefetch, batch_size or "
            "resize_shorter, or more memory (--memory)"
        )


def with_resize(index: ImageIndex, resize_shorter: int | None) -> ImageIndex:
    """Return ``index`` with another ``resize_shorter``; None keeps its own."""
    return index if resize_shorter is None else replace(index, resize_shorter=resize_shorter)
