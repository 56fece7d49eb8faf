"""What is read back from a run's folder is checked: each damage is an error of one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_cases import CHECKPOINT, STORED, change_json, contents_of, seal

from fastclr.cli import main
from fastclr.training.checkpoint import load_checkpoint
from fastclr.training.loop import pretrain_in
from fastclr.training.results import score_rows
from fastclr.training.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a run of format 2."""
    shutil.copytree(STORED, tmp_path / "run", ignore=shutil.ignore_patterns("end.*"))
    return tmp_path / "run"


def fails(call: Callable[[], object], message: str) -> None:
    """Check that a call raises a ValueError of one line."""
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": 5}, "encoder in the configuration must be str, got int"),
        ({"width": 1e9}, r"width must be a positive number up to 16, got 1000000000\.0"),
        ({"width": float("nan")}, "width in the configuration must be float, got nan"),
        ({"epochs": 10**400}, "epochs in the configuration must be int"),
        ({"epochs": True}, "epochs in the configuration must be int, got True"),
        ({"head_hidden": 2**40}, "head_hidden must be"),
        ({"augment": 5}, "augment in the configuration must be"),
        ({"augment": {"size": [32]}}, "size in the configuration must be int, got tuple of 1"),
        ({"augment": {"sizes": 32}}, r"unknown option\(s\) \['sizes'\]"),
        ({"method": ["simclr"]}, "unknown method"),
        ({"simclr": []}, r"simclr in the configuration must be dict"),
        ({"temperature": "hot"}, "temperature in the configuration must be float, got 'hot'"),
        ({"options": {}}, r"unknown option\(s\) \['options'\]"),
        (5, "must hold a JSON object, got int"),
        ([{}], "must hold a JSON object, got list of 1"),
    ],
)
def test_configurations(folder: Path, change: object, message: str) -> None:
    change_json(folder / "config.json", change)
    fails(lambda: Run.open(folder), message)
    fails(lambda: Run.open(folder), "config.json")


@pytest.mark.parametrize("content", [b"", b"\x80", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000])
@pytest.mark.parametrize("name", ["config.json", "results.json", "environment.json"])
def test_files_that_are_no_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if name == "config.json":
        fails(lambda: Run.open(folder), "config.json must hold JSON")
    if name == "results.json":
        fails(lambda: score_rows(Run.open(folder)), "results.json must hold JSON")
        fails(lambda: Run.open(folder).add_result("knn", {}), "results.json must hold JSON")
    assert main(["report", str(folder), "--device", "cpu"]) == 2


def test_an_enormous_file_is_not_read(folder: Path) -> None:
    with open(folder / "config.json", "r+b") as file:
        file.truncate(2**33)
    fails(lambda: Run.open(folder), "config.json must have at most")


def test_lines_that_are_no_records(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run.open(folder)
    known = run.metrics.read()
    with open(folder / "metrics.jsonl", "a") as file:
        for line in (5, [], {}, {"kind": "eval"}, {"kind": "train", "step": "x"}, {"kind": [], "step": 1}):
            file.write(json.dumps(line) + "\n")
        file.write(json.dumps({"kind": "eval", "epoch": 0, "step": 1, "knn": 0.5}) + "\n")
        file.write(json.dumps({"kind": "train", "epoch": 2, "step": 6, "loss": {"a": 1}}) + "\n")
        file.write(json.dumps({"kind": "train", "epoch": 2, "step": 10**400}) + "\n")
        file.write("[" * 100_000 + "\n")
        odd = {"kind": "train", "epoch": 2, "step": 6}
        for name in ("loss", "knn", "online_probe_accuracy"):
            file.write(json.dumps({**odd, name: "high"}) + "\n")
    assert run.metrics.read() == known
    assert "12 line(s) are no records" in caplog.text
    run.metrics.append({**odd, "note": "text"})
    run.metrics.append({**odd, "kind": "eval", "loss": float("nan")})
    assert len(run.metrics.read()) == len(known) + 2
    assert main(["report", str(folder), "--device", "cpu"]) == 0


def test_results_of_any_shape_are_shown(folder: Path) -> None:
    results: dict[str, Any] = {
        "a": 5,
        "b": [1],
        "c": {"accuracy": 10**400},
        "d": {"x": {"accuracy": "good"}},
        "e": None,
        "f": {},
    }
    for number, counts in enumerate(
        ([], [[1]], [["a", 1], [1, 1]], {"a": 1}, "ab", [[2**70, 1], [1, 1]], [[1], [2, 3]])
    ):
        results[f"confusion {number}"] = {"accuracy": 0.5, "confusion": counts, "classes": ["a", "b"]}
    change_json(folder / "results.json", results)
    assert len(score_rows(Run.open(folder))) >= len(results)
    assert main(["report", str(folder), "--device", "cpu"]) == 0


Change = Callable[[dict[str, Any]], object]


def set_to(value: object, *names: str) -> Change:
    """Return a change of one place in nested dicts."""

    def change(contents: dict[str, Any]) -> None:
        for name in names[:-1]:
            contents = contents[name]
        contents[names[-1]] = value

    return change


WEIGHT = "encoder.conv1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to([], "method"), r"method in .*step-00000006\.pt must be"),
        (set_to({"a": 1}, "method"), "a in .* must be a plain tensor, got int"),
        (set_to(torch.full((4, 3, 3, 3), torch.nan), "method", WEIGHT), "encoder.conv1.weight in .* must be finite"),
        (set_to(torch.zeros(1).expand(10**12), "method", WEIGHT), "must have its values in memory"),
        (set_to(torch.zeros(2, dtype=torch.cfloat), "method", WEIGHT), "must be finite real numbers"),
        (set_to("6", "step"), "step in .* must be int, got '6'"),
        (set_to(-1, "epoch"), "epoch in .* must be at least 0"),
        (set_to((1.0,), "seconds"), "seconds in .* must be"),
        (set_to({"loss": 5}, "totals"), "totals in .* must be"),
    ],
)
def test_checkpoints_that_are_whole_but_wrong(folder: Path, change: Change, message: str) -> None:
    contents = dict(vars(load_checkpoint(folder / CHECKPOINT)))
    change(contents)
    seal(folder / CHECKPOINT, contents)
    fails(lambda: Run.open(folder).load_encoder(), message)


@pytest.mark.parametrize("contents", [5, [], {}, {"model": []}, "text"])
def test_checkpoints_that_hold_something_else(folder: Path, contents: object) -> None:
    seal(folder / CHECKPOINT, contents)
    fails(lambda: Run.open(folder).load_model(), "must hold")


@pytest.mark.parametrize("value", [[], 5, torch.zeros(3)])
@pytest.mark.parametrize("name", ["model", "loss", "totals", "probe"])
def test_old_checkpoints_with_other_values(folder: Path, name: str, value: object) -> None:
    contents = contents_of(folder / CHECKPOINT)
    contents[name] = value
    seal(folder / CHECKPOINT, contents, 2)
    fails(lambda: Run.open(folder).load_model(), "must hold")


@pytest.mark.parametrize("name", ["model", "loss", "totals"])
def test_old_checkpoints_that_lack_something(folder: Path, name: str) -> None:
    contents = contents_of(folder / CHECKPOINT)
    del contents[name]
    seal(folder / CHECKPOINT, contents, 2)
    fails(lambda: Run.open(folder).load_model(), "must hold")


def test_weights_that_do_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = dict(vars(load_checkpoint(folder / CHECKPOINT)))
    contents["method"][WEIGHT] = torch.zeros(5, 3, 3, 3)
    seal(folder / CHECKPOINT, contents)
    fails(lambda: Run.open(folder).load_encoder(), "the checkpoint of step 6 in .* does not match config.json: ")
    assert main(["export", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_resumed_run_names_an_optimiser_that_does_not_fit(folder: Path, pictures: Path) -> None:
    contents = dict(vars(load_checkpoint(folder / CHECKPOINT)))
    contents["optimizer"] = {"state": 5}
    seal(folder / CHECKPOINT, contents)
    run = Run.open(folder)
    (folder.parent / "pictures").symlink_to(pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        fails(lambda: pretrain_in(folder, run.config, resume=True, progress=False), "the optimiser in the checkpoint")


def test_weights_that_are_nan_are_passed_over_for_an_older_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    broken = {**checkpoint.method, WEIGHT: torch.full((4, 3, 3, 3), torch.inf)}
    newer = dataclasses.replace(checkpoint, step=7, method=broken)
    seal(folder / "checkpoints" / "step-00000007.pt", vars(newer))
    latest = Run.open(folder).latest_checkpoint()
    assert latest is not None and latest.step == 6
    assert "must be finite" in capsys.readouterr().err
