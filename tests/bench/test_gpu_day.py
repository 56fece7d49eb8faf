"""A day with a GPU: boxes, resumption, hanging and broken stages; its rehearsal on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_boxed
import gpu_cases
import gpu_day
import pytest
import torch
from effort import EFFORT
from gpu_day import Stage

ROOT = Path(__file__).resolve().parents[2]
NOTE = "import sys, time; open({path!r}, 'a').write({name!r} + ' '); time.sleep({seconds}); sys.exit({status})"


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the stages by (name, minutes, seconds that it takes, exit status, needs data)."""

    def replace(*rows: tuple[str, float, float, int, bool]) -> None:
        made = []
        for name, minutes, seconds, status, needs_data in rows:
            text = NOTE.format(path=str(tmp_path / "ran"), name=name, seconds=seconds, status=status)
            made.append(Stage(name, minutes, ("-c", text), needs_data, least_s=0.05))
        monkeypatch.setattr(gpu_day, "STAGES", tuple(made))
        monkeypatch.setattr(gpu_day, "GRACE_S", 0.5)

    return replace


def day(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], list[str]]:
    status = gpu_day.main(["--out", str(tmp_path / "out"), *arguments])
    found = json.loads((tmp_path / "out" / "gpu-day.json").read_text())
    ran = (tmp_path / "ran").read_text().split() if (tmp_path / "ran").exists() else []
    return status, found["stages"], ran


def test_stages_run_in_order_and_a_later_call_goes_on(tmp_path: Path, stages: Any) -> None:
    stages(("a", 1, 0, 0, False), ("b", 1, 0, 3, False), ("c", 1, 0, 0, False), ("images", 1, 0, 0, True))
    status, found, ran = day(tmp_path, "--minutes", "1")
    assert (status, ran) == (1, ["a", "b", "c"])  # a stage that fails is no reason to stop, nor to run it twice
    assert {name: entry["status"] for name, entry in found.items()} == {"a": "done", "b": "failed", "c": "done"}
    _, found, ran = day(tmp_path, "--minutes", "1", "--data", "somewhere")
    assert ran[3:] == ["b", "images"]
    assert (found["b"]["calls"], found["a"]["calls"]) == (2, 1)


def test_a_box_ends_and_what_was_cut_short_gets_what_is_left(tmp_path: Path, stages: Any) -> None:
    stages(("long", 0.005, 60, 0, False), ("short", 1, 0, 0, False))
    begin = time.monotonic()
    status, found, ran = day(tmp_path, "--minutes", "0.3")
    assert status == 1 and time.monotonic() - begin < 50
    assert ran == ["long", "short", "long"]
    assert found["long"]["status"] == "killed" and found["short"]["status"] == "done"


def test_a_rehearsal_and_a_day_do_not_mix(tmp_path: Path, stages: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stages(("a", 1, 0, 0, False))
    day(tmp_path, "--minutes", "0.1", "--rehearse")
    assert gpu_day.main(["--out", str(tmp_path / "out"), "--minutes", "0.1"]) == 2
    assert "use another OUT" in capsys.readouterr().err


# three cases in processes of their own: the first never ends, the second ends its process, the third is right
BROKEN = """
import os, sys, time
import gpu_boxed

class Case:
    def __init__(self, name):
        self.name = name

def run_case(case, device, rehearse):
    if case.name == "hangs":
        time.sleep(60)
    if case.name == "crashes":
        os._exit(7)
    if case.name == "raises":
        raise RuntimeError("no")
    return {"status": "ok"}

gpu_boxed.named = lambda stage, rehearse: {name: Case(name) for name in ("hangs", "crashes", "raises", "right")}
gpu_boxed.run_case = run_case
gpu_boxed.prepare = lambda: (None, type("Counter", (), {"compiled": (), "found": ()})(), lambda: None)
gpu_boxed.__file__ = __file__
gpu_boxed.CASE_S = 1.0
sys.exit(gpu_boxed.main(sys.argv[1:]))
"""


def test_a_case_that_hangs_or_crashes_does_not_end_the_stage(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "publish")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "broken.py"), "numerics", "--out", str(tmp_path), "--minutes", "9"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "numerics.json").read_text())
    assert done.returncode == 1, done.stderr
    statuses = {name: entry["status"] for name, entry in found["cases"].items()}
    assert statuses == {"hangs": "hung", "crashes": "crashed", "raises": "failed", "right": "ok"}
    assert found["cases"]["crashes"]["note"].endswith("7") and found["missing"] == []
    assert found["counts"] == {"crashed": 1, "failed": 1, "hung": 1, "ok": 1}


def test_errors_are_relative_and_nan_is_wrong() -> None:
    truth = [torch.tensor([3.0, 4.0], dtype=torch.float64)]
    assert gpu_cases.relative_errors([torch.tensor([3.0, 4.5])], truth) == [0.1]
    case = next(iter(gpu_cases.cases(rehearse=True)))

    class Broken(gpu_cases.Case):
        def outcome(self, device: torch.device, exact: bool = False) -> list[torch.Tensor]:
            return truth if exact else [torch.tensor([3.0, float("nan")])]

    broken = Broken(case.name, case.make, case.shapes, case.dtype, case.limit)
    assert gpu_boxed.run_case(broken, torch.device("cpu"), True)["status"] == "wrong"


def test_tiles_are_rehearsed_in_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert gpu_boxed.main(["tiles", "--rehearse", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "tiles.json").read_text())
    assert found["missing"] == [] and set(found["counts"]) == {"ok"}
    assert found["machine"]["rehearsal"] is True


@pytest.mark.slow
@pytest.mark.skipif(EFFORT == 1, reason="two minutes: make test-long")
def test_the_day_is_rehearsed(tmp_path: Path) -> None:
    command = ["make", "gpu-day", "REHEARSE=1", f"PY={sys.executable}", f"OUT={tmp_path / 'out'}", "MINUTES=9"]
    command.append(f"WORK={tmp_path / 'work'}")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "gpu-day.json").read_text())
    assert {name: entry["status"] for name, entry in found["stages"].items()} == dict.fromkeys(
        ["numerics", "losses", "tiles", "augmentation", "record"], "done"
    )
    # what comes back from such a machine: few files, none deep
    assert len(list((tmp_path / "out").rglob("*.json"))) == 5
