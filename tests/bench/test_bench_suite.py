"""Suites: time-limited, resumable, and never mixing results of two machines in one file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastclr.bench import machine, suite
from fastclr.bench.augment_cases import AugmentCase, check_views
from fastclr.bench.augment_peers import IN_FLIGHT, contestants, dali_runs, dali_start, dali_tensors
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import Row, Spread, WrongResultError
from fastclr.bench.step import LADDER, Rung, StepCase, our_views
from fastclr.bench.suite import Planned, failures, main, plan, run_suites
from fastclr.bench.timing import Effort
from fastclr.cli import main as cli

CPU = torch.device("cpu")


@dataclass
class FakeCase:
    name: str
    runs: list[str] = field(default_factory=list)
    error: Exception | None = None

    def toy(self) -> FakeCase:
        return self

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        self.runs.append(self.name)
        if self.error is not None:
            raise self.error
        ceilings.rates["copy bytes"] = 1.0
        row = Row(suite="fake", case=self.name, provider="fastclr", status="ok", work=1, n=1)
        row.time = Spread(1.0, 1.0, 1.0)
        return [row]


def planned(*found: FakeCase) -> list[Planned]:
    return [Planned("fake", case) for case in found]


def test_a_box_of_time_keeps_what_is_done_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found, clock = tmp_path / "out" / "r.json", [FakeCase(name) for name in "abc"], iter([0.0, 1.0, 11.0, 11.0])
    monkeypatch.setattr(suite.time, "monotonic", lambda: next(clock))
    rows = run_suites(planned(*found), CPU, path, Effort(toy=True), seconds=10, say=lambda _: None)
    assert [row.case for row in rows] == ["a"]
    assert json.loads(path.read_text())["missing"] == ["fake/b", "fake/c"]
    monkeypatch.undo()
    rows = run_suites(planned(*found), CPU, path, Effort(toy=True), say=lambda _: None)
    assert [row.case for row in rows] == ["a", "b", "c"]
    assert [case.runs for case in found] == [["a"], ["b"], ["c"]]
    stored = json.loads(path.read_text())
    assert stored["missing"] == [] and stored["ceilings"] == {"copy bytes": 1.0}
    assert {"cpu", "threads", "versions", "commit", "dirty", "python"} <= stored["machine"].keys()


def test_results_of_another_commit_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    run_suites(planned(FakeCase("a")), CPU, path, Effort(toy=True), say=lambda _: None)
    before = path.read_text()
    monkeypatch.setattr(machine, "commit", lambda: {"commit": "f00d", "dirty": False})
    with pytest.raises(ValueError, match="f00d"):
        run_suites(planned(FakeCase("b")), CPU, path, Effort(toy=True), say=lambda _: None)
    assert path.read_text() == before
    path.write_text("{}")
    with pytest.raises(ValueError, match="format"):
        run_suites(planned(FakeCase("b")), CPU, path, Effort(toy=True), say=lambda _: None)


def test_a_case_that_breaks_is_a_failure_of_ours_and_the_suite_goes_on(tmp_path: Path) -> None:
    broken, fine = FakeCase("broken", error=RuntimeError("no luck")), FakeCase("fine")
    rows = run_suites(planned(broken, fine), CPU, tmp_path / "r.json", Effort(toy=True), say=lambda _: None)
    assert [row.status for row in rows] == ["failed", "ok"] and "no luck" in rows[0].note
    assert [row.case for row in failures(rows)] == ["broken"]
    peer = Row(suite="s", case="c", provider="lightly", status="wrong")
    assert failures([peer]) == []  # that is a result


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_headlines_of_every_suite_come_first(kind: str) -> None:
    found = plan(list(suite.SUITES), torch.device(kind))
    counts = {name: sum(p.suite == name for p in found) for name in suite.SUITES}
    asked = {name for name in suite.SUITES if (name, kind) != ("busy", "cuda")}  # a GPU waits for no core
    assert {name for name, count in counts.items() if count} == asked
    first = found[: sum(min(n, counts[name]) for name, n in suite.SUITES.items())]
    assert {p.suite for p in first} == asked
    assert len({(p.suite, p.case.name) for p in found}) == len(found)
    with pytest.raises(ValueError, match="speed"):
        plan(["speed"], CPU)


def test_slug_names_the_device_and_torch() -> None:
    versions = {"torch": "2.11.0+cu130"}
    assert machine.slug({"gpu": "NVIDIA H200", "cpu": "x", "versions": versions}) == "h200-torch2.11.0"
    cpu = {"cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz", "versions": versions}
    assert machine.slug(cpu) == "cpu-xeon-torch2.11.0"
    assert machine.slug(cpu | {"malloc": "keeps freed memory"}) == "cpu-xeon-torch2.11.0-freed-memory-kept"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept_and_children_keep_it_too() -> None:
    code = """
import resource, subprocess, sys, torch
from fastclr.bench import machine

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def steady() -> int:
    # allocations in between split the first few freed blocks
    for _ in range(50):
        faults()
    return max(faults() for _ in range(5))

if len(sys.argv) == 1:
    assert machine.malloc() == "default" and steady() > 1000
    assert machine.keep_freed_memory() and machine.malloc() == "keeps freed memory"
    assert steady() < 100
    subprocess.run([sys.executable, sys.argv[0], "child"], check=True)
else:
    assert steady() < 100
"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(code)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        subprocess.run([sys.executable, str(script)], check=True, env=environment)


def test_bad_options_end_with_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--suites", "speed", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "speed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bench_command_answers_one_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answer.json"
    ask = ["bench", "loss", "--n", "32", "--dim", "16", "--device", "cpu", "--seconds", "0.01", "--json", str(path)]
    assert cli([*ask, "--against", "pytorch"]) == 0
    text = capsys.readouterr().out
    assert "fastclr" in text and "pytorch" in text and "lightly" not in text
    rows = json.loads(path.read_text())["rows"]
    assert [row["provider"] for row in rows] == ["fastclr", "pytorch"]
    assert all(row["n"] >= 3 and row["error"] < 1e-4 and row["time"]["median"] > 0 for row in rows)
    assert rows[0]["parameters"]["rows"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss", "--against", "tensorflow"], "pytorch-metric-learning"),
        (["loss", "--n", "0"], "n must be at least 1, got 0"),
        (["augment", "--batch", "-3"], "batch must be at least 1, got -3"),
        (["loss", "--seconds", "0"], "seconds must be positive"),
    ],
)
def test_bench_command_refuses_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["bench", *arguments, "--device", "cpu"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_views_are_checked() -> None:
    case = AugmentCase(32, 4, 2)
    good = torch.rand(2, 4, 3, 32, 32)
    check_views(case, good, 4)
    for bad in (good[:1], good.double(), good * 2, good - 1, good[..., :31], good * float("nan")):
        with pytest.raises(WrongResultError):
            check_views(case, bad, 4)


def test_floor_of_the_augmentation_counts_crops_and_views() -> None:
    case = AugmentCase(32, 64, 2)
    # on average a crop of 32 x 32 pixels has 54% of them (scale 0.08 to 1), within a few percent
    floor = case.floor_s(Ceilings(CPU, rates={"copy bytes": 1.0}))
    views = 2 * 64 * 3 * 32 * 32
    assert views * 4 + 0.4 * views < floor < views * 4 + 0.7 * views


def test_all_libraries_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[Any] = [contestant.name for contestant in contestants(AugmentCase(32, 4, 2))]
    assert names[0] == "fastclr"
    assert {"torchvision-float", "kornia", "albumentations", "dali", "triton-augment"} <= set(names)


def test_dali_does_not_work_ahead_in_the_turns_of_others() -> None:
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'fastclr[dali]'")
    calls = []

    def source() -> list[np.ndarray]:
        calls.append(len(calls))
        return [np.full(1, calls[-1], np.uint8)] * 2

    pipeline = dali.Pipeline(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=IN_FLIGHT)
    with pipeline:
        pipeline.set_outputs(dali.fn.external_source(source, batch=True))
    dali_start(pipeline)
    started = len(calls)
    for count in (1, 4):
        before = len(calls)
        seen = [int(dali_tensors(outputs)[0][0]) for outputs in dali_runs(pipeline, count)]
        assert seen == list(range(before, before + count)) and len(calls) == before + count
    assert started == IN_FLIGHT


def test_a_broken_device_ends_the_suite_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = planned(FakeCase("a"), FakeCase("b"))
    monkeypatch.setattr(suite, "device_error", lambda device: "CUDA error: an illegal memory access")
    path = tmp_path / "some.json"
    with pytest.raises(RuntimeError, match="fake/a broke the device"):
        run_suites([first, second], CPU, path, Effort(toy=True), say=lambda _: None)
    (row,) = suite.read(path)["rows"]
    assert row["status"] == "failed" and "illegal memory access" in row["note"] and row["provider"] == "fastclr"
    monkeypatch.undo()
    rows = run_suites([first, second], CPU, path, Effort(toy=True), say=lambda _: None)
    assert [row.case for row in rows] == ["a", "b"] and rows[1].status == "ok"


@pytest.mark.parametrize("rung", LADDER[1:], ids=lambda rung: rung.name)
def test_views_have_the_memory_format_of_their_rung(rung: Rung) -> None:
    case = StepCase("resnet18", 0.125, 32, 4)
    views = our_views(case, rung.bf16)(None).flatten(0, 1)
    assert views.is_contiguous(memory_format=torch.channels_last) == rung.bf16


def test_a_rehearsal_and_a_changed_tree_do_not_count_as_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, case = tmp_path / "r.json", FakeCase("a")
    run_suites(planned(case), CPU, path, Effort(toy=True), say=lambda _: None)
    with pytest.raises(ValueError, match="rehearsal True"):
        run_suites(planned(case), CPU, path, Effort(), say=lambda _: None)
    state = machine.commit()
    monkeypatch.setattr(machine, "commit", lambda: state | {"dirty": not state["dirty"]})
    with pytest.raises(ValueError, match="dirty"):
        run_suites(planned(case), CPU, path, Effort(toy=True), say=lambda _: None)
    assert case.runs == ["a"]


def test_measuring_again_keeps_the_other_cases_and_what_is_missing(tmp_path: Path) -> None:
    path, found = tmp_path / "r.json", [FakeCase(name) for name in "abc"]
    run_suites(planned(*found[:2]), CPU, path, Effort(toy=True), say=lambda _: None)
    stored = json.loads(path.read_text()) | {"missing": ["fake/z"]}
    path.write_text(json.dumps(stored))
    rows = run_suites(planned(found[1], found[2]), CPU, path, Effort(toy=True), again=True, say=lambda _: None)
    assert [row.case for row in rows] == ["a", "b", "c"] and [len(case.runs) for case in found] == [1, 2, 1]
    assert json.loads(path.read_text())["missing"] == ["fake/z"]
    broken = FakeCase("a", error=KeyboardInterrupt())  # type: ignore[arg-type]
    before = path.read_text()
    with pytest.raises(KeyboardInterrupt):
        run_suites(planned(broken), CPU, path, Effort(toy=True), again=True, say=lambda _: None)
    assert path.read_text() == before
