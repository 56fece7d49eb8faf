"""The folder of a run, used by several processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from forked import start

from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run


def add(folder: Path, name: str) -> None:
    run = Run.open(folder)
    (folder / name).touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    for number in range(40):
        run.add_result(f"{name}-{number}", {"accuracy": number})


def test_results_of_evaluations_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    folder, names = tmp_path / "run", ("knn", "probe")
    Run.create(folder, PretrainConfig(data="shapes"))
    started = [start(add, folder, name) for name in names]
    while not all((folder / name).exists() for name in names) and all(process.is_alive() for process in started):
        time.sleep(0.01)
    (folder / "go").touch()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    results = json.loads((folder / "results.json").read_text())
    assert results == {f"{name}-{n}": {"accuracy": n} for name in names for n in range(40)}
