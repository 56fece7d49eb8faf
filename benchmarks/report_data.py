"""Reads files of results, those of `python -m fastclr.bench` and the older ones of pytest-benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastclr.bench.machine import DEFAULT_MALLOC
from fastclr.bench.rows import OURS, Row, Spread
from fastclr.bench.suite import FORMAT

OLD_COMMAND = "make bench"


@dataclass(frozen=True)
class Result:
    """One file: a machine with its versions, and its rows."""

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


def load(path: Path) -> Result:
    """Read a file.

    Raises:
        ValueError: it holds no results.
    """
    stored = json.loads(path.read_text())
    if stored.get("format") == FORMAT:
        rows = [Row.from_json(row) for row in stored["rows"]]
        return Result(path, stored["machine"], rows, stored["ceilings"], stored["commands"], stored["missing"])
    if "benchmarks" in stored and "machine_info" in stored:
        return convert(path, stored)
    raise ValueError(f"{path} holds no results of fastclr")


def load_all(folder: Path) -> list[Result]:
    """Read the results of a folder, those of GPUs first, those where freed memory is kept last."""
    found = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    results = [load(path) for path, stored in found.items() if not {"curve", "tests"} & stored.keys()]
    return sorted(results, key=lambda result: (not result.on_gpu, result.malloc != DEFAULT_MALLOC, result.path.name))


def load_records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read the records of time to accuracy, without rehearsals."""
    found = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {path: stored for path, stored in found.items() if "curve" in stored and not stored["rehearsal"]}


def convert(path: Path, stored: dict[str, Any]) -> Result:
    """Turn a file of pytest-benchmark into rows; its samples become medians and percentiles as in newer files."""
    info, commit = stored["benchmarks"][0]["extra_info"], stored["commit_info"]
    machine = {
        "device": "cpu",
        "cpu": stored["machine_info"]["cpu"]["brand_raw"],
        "threads": info["threads"],
        "malloc": DEFAULT_MALLOC,
        "versions": {"torch": info["torch"]},
        "commit": commit["id"],
        "dirty": commit["dirty"],
    }
    rows = [
        _loss_row(entry) if "pairs" in entry["extra_info"] else _augment_row(entry) for entry in stored["benchmarks"]
    ]
    for row in rows:
        ours = next(other for other in rows if other.case == row.case and other.provider == OURS)
        if row.time and ours.time:
            factor = (row.time.median / row.work) / (ours.time.median / ours.work)
            row.ratio, row.reference = Spread(factor, factor, factor), OURS
    return Result(path, machine, rows, {}, [OLD_COMMAND], [])


def _loss_row(entry: dict[str, Any]) -> Row:
    info, m = entry["extra_info"], 2 * entry["extra_info"]["pairs"]
    row = Row(suite="loss", case=f"ntxent-M{m}-D{info['dim']}-{info['dtype']}", provider=info["provider"], status="ok")
    row.parameters = {"rows": m, "dim": info["dim"], "dtype": info["dtype"], "layout": "ntxent", "learnable": False}
    row.work, row.error, row.peak_bytes = m, info["gradient_error"], info["peak_bytes"]
    row.versions = {"lightly": info["lightly"]} if row.provider == "lightly" else {}
    return _timed(row, entry)


def _augment_row(entry: dict[str, Any]) -> Row:
    info = entry["extra_info"]
    row = Row(suite="augment", case=entry["group"], provider=info["provider"], status="ok", unit="views")
    row.parameters, row.work = {"photos": info["photos"]}, info["views"]
    return _timed(row, entry)


def _timed(row: Row, entry: dict[str, Any]) -> Row:
    samples = entry["stats"]["data"]
    row.time, row.n = Spread.of(samples), len(samples)
    return row
