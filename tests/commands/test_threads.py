"""How the command line shares the processor; torch is loaded here already, so most is tried in other processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastclr.api import starting
from fastclr.cli import main
from fastclr.commands import threads
from fastclr.commands.threads import Usage, after_torch, cores_of_others, describe, thread_count, usage
from fastclr.environment import environment, use_stored_threads

STORED_RUN = Path(__file__).parents[1] / "training" / "stored_run"


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable decides."""
    for name in (threads.SPINS, threads.POLICY, threads.COUNT):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("most", "cores", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 1.0, 1),
        (1, 2, 1.0, 1),
        (2, 2, 1.7, 1),
        (4, 4, 0.4, 4),
        (4, 4, 0.6, 3),
        (4, 4, 2.0, 2),
        (64, 64, 1.0, 63),
        (64, 64, 60.0, 4),
        (64, 64, 64.0, 1),
        (8, 16, 3.0, 8),  # two threads a core: the free ones are enough
        (8, 16, 11.0, 5),
        (1, 8, 5.0, 1),
    ],
)
def test_there_are_as_many_threads_as_cores_are_free(most: int, cores: int, others: float, expected: int) -> None:
    assert thread_count(most, cores, others) == expected


def test_usage_is_read_of_the_cores_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  999 0 0 999 0 0 0 0 0 0\n"
        "cpu0 100 20 30 5000 70 4 5 6 50 0\n"  # guests are counted as users already
        "cpu1 1 1 1 1 1 1 1 1 0 0\n"
        "cpu10 10 0 0 0 0 0 0 0 0 0\n"
        "intr 1 2 3\n"
    )
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 10})
    found = usage()
    assert found is not None and found.everybody == (100 + 20 + 30 + 4 + 5 + 6 + 10) / os.sysconf("SC_CLK_TCK")
    stat.write_text("no such thing\ncpu0 1\n")
    assert usage() is None
    monkeypatch.setattr(threads, "STAT", tmp_path / "missing")
    assert usage() is None


def test_what_others_use_is_all_but_ones_own() -> None:
    assert cores_of_others(Usage(10.0, 50.0, 5.0), Usage(12.0, 54.5, 7.5)) == pytest.approx(1.0)
    assert cores_of_others(Usage(10.0, 50.0, 5.0), Usage(12.0, 50.0, 7.5)) == 0.0  # ticks are coarse


@pytest.mark.parametrize(
    ("variable", "arguments", "expected"),
    [(None, [], 3), ("4", [], 4), (None, ["--deterministic"], 4)],
)
def test_threads_are_chosen_once_and_neither_against_the_user_nor_where_bits_count(
    variable: str | None, arguments: list[str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(4)
    if variable is not None:
        monkeypatch.setenv(threads.COUNT, variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr(threads, "usage", lambda: Usage(2.0, 5.0, 3.0))
    after_torch(Usage(0.0, 0.0, 0.0), arguments)
    assert torch.get_num_threads() == expected
    after_torch(None, arguments)  # torch was there before the command
    assert torch.get_num_threads() == expected


SPIN = """
import os, sys
import fastclr.cli
from fastclr.commands import threads
assert "torch" not in sys.modules and "numpy" not in sys.modules
found = threads.before_torch()
assert found is not None or sys.platform != "linux"
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_idle_threads_sleep_soon_unless_the_user_decides(given: dict[str, str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPIN], env=os.environ | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_where_torch_is_loaded_its_owner_has_decided() -> None:
    assert threads.before_torch() is None and threads.SPINS not in os.environ
    before = torch.get_num_threads()
    assert main(["info"]) == 0 and torch.get_num_threads() == before and threads.SPINS not in os.environ


def test_info_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.SPINS, "10000")
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "waiting   GOMP_SPINCOUNT=10000" in text and "export GOMP_SPINCOUNT=10000 before Python" in text
    monkeypatch.delenv(threads.SPINS)
    monkeypatch.setattr(threads, "usage", lambda: None)  # a system that says nothing
    assert describe()[0] == "waiting   as OpenMP has it" and len(describe()) == 2


def test_a_run_goes_on_with_the_threads_it_began_with(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment()["threads"] == str(torch.get_num_threads())
    folder = tmp_path / "run"
    shutil.copytree(STORED_RUN, folder)
    about = folder / "environment.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"threads": "3"}))
    seen = []

    def stop(*arguments: Any, **options: Any) -> None:
        seen.append(torch.get_num_threads())
        raise ValueError("enough")

    monkeypatch.setattr(starting, "pretrain_in", stop)
    assert main(["pretrain", "--resume", str(folder)]) == 2
    monkeypatch.setenv(threads.COUNT, "1")
    torch.set_num_threads(1)
    assert main(["pretrain", "--resume", str(folder)]) == 2
    assert seen == [3, 1]


def test_a_record_without_threads_changes_nothing(tmp_path: Path) -> None:
    use_stored_threads(tmp_path)
    for record in ({}, {"threads": "0"}, {"threads": "many"}):
        (tmp_path / "environment.json").write_text(json.dumps(record))
        use_stored_threads(tmp_path)
        assert torch.get_num_threads() == 1


FIRST_LINE = """
import sys
from fastclr.training import loop

def stop(*arguments, **options):
    slow = {"timm", "torchvision", "torch._dynamo", "sklearn", "scipy", "matplotlib", "nvidia.dali"}
    raise ValueError(f"before the first line: {sorted(slow & set(sys.modules))}")

loop.check_model = stop
from fastclr.cli import main
main(["pretrain", "--preset", "demo", "--out", sys.argv[1]])
"""


def test_pretrain_speaks_before_it_reads_and_before_it_loads_what_is_slow_to_import(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_LINE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, error = done.stderr.splitlines()
    assert first == "SimCLR: building resnet18"
    assert error.startswith("fastclr: error: before the first line: [] ")
