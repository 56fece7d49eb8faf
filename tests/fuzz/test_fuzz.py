"""20,000 damaged inputs for everything that is read: no process dies, no traceback is shown, nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_run import COUNTS, KINDS

import fastclr

HERE = Path(__file__).parent
WITHOUT_TORCH = ["header", "tar", "cls", "json", "csv", "captions", "pickle", "table"]
TIMEOUT = 600  # an input that hangs


def test_the_sum_is_what_is_promised() -> None:
    assert sum(COUNTS.values()) == 20_000 and COUNTS.keys() == KINDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [WITHOUT_TORCH, sorted(KINDS.keys() - set(WITHOUT_TORCH))], ids=["sources", "runs"])
def test_damaged_inputs(kinds: list[str], tmp_path: Path) -> None:
    """In a process of their own, which may die, and beside a folder that is none of its business."""
    (tmp_path / "work").mkdir()
    (tmp_path / "prey").mkdir()
    (tmp_path / "prey" / "file").write_text("precious")
    places = map(str, (HERE, HERE.parent, Path(fastclr.__file__).parents[1]))
    command = [sys.executable, "-W", "ignore", str(HERE / "fuzz_run.py"), ",".join(kinds), "0", str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path / "work", capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stdout and all(f"{kind}: {COUNTS[kind]} inputs" in done.stdout for kind in kinds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prey", "work"]
    assert (tmp_path / "prey" / "file").read_text() == "precious" and len(list((tmp_path / "prey").iterdir())) == 1
