"""The log of a run: `metrics.jsonl`, whose records go to other places too if that is asked for."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fastclr.files import append_text, fits, sync_folder, write_text_atomically
from fastclr.training.metric_names import NUMBERS, full_names, is_share

log = logging.getLogger("fastclr")


class MetricsHook(Protocol):
    """Takes every record of a `MetricsLog`."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one record; it has the keys `kind` and `step`."""

    def close(self) -> None:
        """Write what is left; nothing is logged any more."""


def is_record(value: object) -> bool:
    """Tell whether a line of the log is a record: a kind, a step, an epoch from 1, and numbers or texts.

    An evaluation before the first step is of epoch 0. Its metrics must have the present names.
    """
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or not fits(value.get("step"), int):
        return False
    first = 0 if value["kind"] == "eval" and value["step"] == 0 else 1
    counts = value["step"] >= 0 and fits(value.get("epoch"), int) and value["epoch"] >= first
    good = all(isinstance(item, float) or fits(item, float | bool | str) for item in value.values())
    texts = {name for name, item in value.items() if isinstance(item, str)}
    return counts and good and NUMBERS.isdisjoint(texts) and not any(map(is_share, texts))


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, appended and flushed, cut back to a checkpoint on resume.

    Args:
        path: the file.
        hooks: get every record too. One that fails is dropped with a warning: training goes on without it.
    """

    def __init__(self, path: Path, hooks: Sequence[MetricsHook] = ()) -> None:
        self.path = path
        self.hooks = list(hooks)

    def append(self, record: dict[str, Any]) -> None:
        """Add one record: `kind`, `epoch`, `step`, and metrics under the names of `fastclr.training.metric_names`.

        Raises:
            OSError: it could not be written to the file, for one because the disk is full.
        """
        try:
            append_text(self.path, json.dumps(record) + "\n")
        except OSError as error:
            raise OSError(f"could not write to {self.path}: {error}; the last checkpoint is kept") from error
        for hook in list(self.hooks):
            try:
                hook.log(record)
            except Exception as error:  # other people's code and services, not worth a run
                self.hooks.remove(hook)
                warnings.warn(f"{type(hook).__name__} failed and is off: {error}", RuntimeWarning, stacklevel=2)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole records, under the present names; a line torn by a kill, or of no `append`, is left out."""
        records: list[dict[str, Any]] = []
        foreign = 0
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):  # not JSON, or not UTF-8
                    continue
                record = full_names(record) if isinstance(record, dict) else record
                if is_record(record):
                    records.append(record)
                else:
                    foreign += 1
        if foreign:
            log.warning("%s: %d line(s) are no records of a run and are left out", self.path, foreign)
        return records

    def keep_up_to(self, step: int, epochs: int) -> None:
        """Drop what will be written again, and a torn last line.

        That is training after `step`, and evaluations of other than the first `epochs` epochs, which are done; at step
        0 also the evaluation before it.
        """
        kept = (
            []
            if step == 0
            else [r for r in self.read() if (r["epoch"] <= epochs if r["kind"] == "eval" else r["step"] <= step)]
        )
        lines = [json.dumps(record) + "\n" for record in kept]
        write_text_atomically(self.path, "".join(lines))

    def sync(self) -> None:
        """Force what was appended to disk, so that a power cut does not take it."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the hooks; a failure becomes a warning."""
        for hook in self.hooks:
            try:
                hook.close()
            except Exception as error:  # as in `append`
                warnings.warn(f"{type(hook).__name__} did not close: {error}", RuntimeWarning, stacklevel=2)
        self.hooks = []
