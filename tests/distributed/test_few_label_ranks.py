"""Fine-tuning and distillation on two ranks are those of one process, and go on after a kill."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import TINY

from fastclr.evaluate import state_hash
from fastclr.training.loop import pretrain_in
from fastclr.transfer.classifier import Trained

SCRIPT = Path(__file__).with_name("few_label_ranks.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), head_layers=3, epochs=1))
    return folder


def states(pretrained: Path, work: Path, *launcher: str) -> list[list[dict[str, torch.Tensor]]]:
    """The networks of every rank, tuned and distilled in a copy of the run."""
    folder = Path(shutil.copytree(pretrained, work / "run"))
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), str(work)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(path, weights_only=True) for path in sorted(work.glob("*.pt"))]


@pytest.mark.slow
def test_two_ranks_end_where_one_process_ends(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    (one,) = states(pretrained, tmp_path / "one")
    ranks = states(pretrained, tmp_path / "two", *TORCHRUN)
    assert len(ranks) == 2
    for rank in ranks:
        for network, expected in zip(rank, one, strict=True):
            assert network.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(network[name], value, rtol=1e-6, atol=1e-9, msg=name)


KILLED = [
    ("finetune", ["--share", "50%", "--epochs", "6", "--batch-size", "8"], "finetune-50pct"),
    ("distill", ["--epochs", "6", "--batch-size", "16"], "distill-50pct-self"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "options", "name"), KILLED, ids=["finetune", "distill"])
def test_killed_five_times_it_ends_bit_for_bit(
    command: str, options: list[str], name: str, pretrained: Path, tmp_path: Path
) -> None:
    whole, parts = (Path(shutil.copytree(pretrained, tmp_path / kind)) for kind in ("whole", "parts"))
    start = [sys.executable, "-m", "fastclr"]
    if command == "distill":
        teach = [*start, "finetune", str(whole), "--share", "50%", "--epochs", "1", "--batch-size", "16"]
        subprocess.run([*teach, "--device", "cpu", "--deterministic"], env=ENVIRONMENT, check=True, capture_output=True)
        shutil.copytree(whole, parts, dirs_exist_ok=True)
    arguments = [*options, "--device", "cpu", "--deterministic"]
    subprocess.run([*start, command, str(whole), *arguments], env=ENVIRONMENT, check=True, capture_output=True)
    log = parts / name / "seed-0" / "metrics.jsonl"
    for records in range(1, 6):
        process = subprocess.Popen(
            [*start, command, str(parts), *arguments],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= records):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*start, command, str(parts), *arguments], env=ENVIRONMENT, check=True, capture_output=True)
    ours, expected = (Trained.load(folder / name) for folder in (parts, whole))
    assert state_hash(ours.model) == state_hash(expected.model)
    assert ours.result == expected.result
