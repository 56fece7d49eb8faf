"""The loss examples run as their first lines say, and learn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run, script

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


@pytest.mark.parametrize("name", ["drop_in", "learnable_temperature", "clip", "barlow_twins", "large_batch"])
def test_example_learns(name: str) -> None:
    check_losses(run(script, EXAMPLES / f"{name}.py").out)


def test_example_of_two_processes_learns() -> None:
    starter = str(Path(__file__).parents[1] / "distributed" / "run_example.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *TORCHRUN, starter, str(EXAMPLES / "ddp.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    check_losses(done.stdout)


def check_losses(said: str) -> None:
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", said)]
    assert len(losses) >= 3
    assert losses[-1] < 0.8 * losses[0]
