"""A suite of small trainings, killed in its midst: it goes on, and keeps what was done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastclr.files import read_json

LIMIT_S = 600


def command(out: Path) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "fastclr", "findings", "run"),
        *("--tier", "ci", "--out", str(out), "--jobs", "2"),
    ]


@pytest.mark.slow
def test_a_killed_suite_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "findings"
    results = out / "results"
    child = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and len(list(results.glob("*.json"))) < 2:  # untrained and base
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.glob("*.json")}
    assert len(kept) >= 2 and all(json.loads(content) for _, content in kept.values())
    time.sleep(2)  # trainings end with the process that started them
    said = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(out) not in said
    finished = subprocess.run(command(out), capture_output=True, text=True, timeout=LIMIT_S, env=os.environ)
    assert finished.returncode == 0, finished.stderr
    for name, (when, content) in kept.items():
        assert ((results / name).stat().st_mtime_ns, (results / name).read_bytes()) == (when, content)
    record = read_json(out / "findings-ci-1.json")
    (finding,) = record["findings"]
    assert finding["name"] == "augmentation" and finding["verdict"] == "not resolved"  # of one seed
    measured = {row["role"]: row["means"] for row in finding["conditions"]}
    # crop alone solves its task without learning: colours of a crop tell which image it is from
    assert measured["crop"]["contrastive_accuracy"] > 3 * measured["both"]["contrastive_accuracy"]
    assert "needs 3 seeds" in (out / "findings.html").read_text()
    assert not list((out / "work").glob("tmp*"))
