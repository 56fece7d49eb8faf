"""The loss examples run as their first lines say, and learn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
    str(Path(__file__).parents[1] / "distributed" / "run_example.py"),
]


@pytest.mark.parametrize(
    ("name", "launcher"),
    [
        ("drop_in.py", []),
        ("learnable_temperature.py", []),
        ("clip.py", []),
        ("barlow_twins.py", []),
        ("ddp.py", TORCHRUN),
        ("large_batch.py", []),
    ],
)
def test_example_learns(name: str, launcher: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) >= 3
    assert losses[-1] < 0.8 * losses[0]
