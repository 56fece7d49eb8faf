"""The folder of a run, used by several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run

ADD = """
import sys
from pathlib import Path
from fastclr.training.run import Run
run = Run.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    run.add_result(f"{sys.argv[2]}-{number}", {"accuracy": number})
"""


def test_results_of_evaluations_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run.create(folder, PretrainConfig(data="shapes"))
    started = [
        subprocess.Popen([sys.executable, "-c", ADD, folder, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("knn", "probe")
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0, 0]
    results = json.loads((folder / "results.json").read_text())
    assert results == {f"{name}-{n}": {"accuracy": n} for name in ("knn", "probe") for n in range(40)}
