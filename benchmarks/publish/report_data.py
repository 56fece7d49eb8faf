"""Reads the results files that `python -m fastclr.bench` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastclr.bench.machine import DEFAULT_MALLOC
from fastclr.bench.rows import Row
from fastclr.bench.suite import FORMAT


@dataclass(frozen=True)
class Result:
    """One results file: a machine with its versions, and its rows."""

    path: Path
    machine: dict[str, Any]
    rows: list[Row]
    ceilings: dict[str, float]
    commands: list[str]
    missing: list[str]

    @property
    def malloc(self) -> str:
        """What the C library did with freed memory."""
        return str(self.machine["malloc"])

    @property
    def on_gpu(self) -> bool:
        """Whether the rows were measured on a GPU."""
        return bool(self.machine["device"] == "cuda")

    def suite(self, name: str) -> list[Row]:
        """Return the rows of one suite."""
        return [row for row in self.rows if row.suite == name]

    def timed(self) -> set[tuple[str, str]]:
        """Return the suites with the contestants that were timed in them."""
        return {(row.suite, row.provider) for row in self.rows if row.time}


def load(path: Path) -> Result:
    """Read a file.

    Raises:
        ValueError: it contains no results.
    """
    stored = contents(path)
    if stored.get("format") == FORMAT:
        rows = [Row.from_json(row) for row in stored["rows"]]
        return Result(path, stored["machine"], rows, stored["ceilings"], stored["commands"], stored["missing"])
    raise ValueError(f"{path} contains no results of fastclr")


def contents(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is not one.
    """
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds no results of fastclr")
    return stored


def load_all(folder: Path) -> list[Result]:
    """Read the results of a folder, in order, skipping records, test outcomes, tile timings, tables."""
    found = {path: contents(path) for path in sorted(folder.glob("*.json"))}
    others = {"curve", "tests", "tune", "trainings", "findings"}
    return in_order([load(path) for path, stored in found.items() if not others & stored.keys()])


def in_order(results: Sequence[Result]) -> list[Result]:
    """Sort results: from GPUs first, with kept freed memory last."""
    return sorted(results, key=lambda result: (not result.on_gpu, result.malloc != DEFAULT_MALLOC, result.path.name))


def load_records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read the time-to-accuracy records, without rehearsals."""
    found = {path: contents(path) for path in sorted(folder.glob("*.json"))}
    return {path: stored for path, stored in found.items() if "curve" in stored and not stored["rehearsal"]}
