from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastclr.checkpoint import Checkpoint, MetricsLog, load_checkpoint, save_checkpoint


def make(step: int, size: int = 10) -> Checkpoint:
    return Checkpoint(
        config={"lr": 0.1},
        fingerprint="abc",
        epoch=1,
        step_in_epoch=2,
        step=step,
        model={"w": torch.full((size,), float(step))},
        loss={},
        optimizer={"state": {}, "param_groups": []},
        totals=torch.zeros(4),
        seconds=(1.5, 0.5),
    )


def test_round_trip_is_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, make(7))
    torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.epoch, loaded.config) == (7, 1, {"lr": 0.1})
    assert torch.equal(loaded.model["w"], torch.full((10,), 7.0))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", b"PK\x03\x04 torn zip"])
def test_damaged_files_are_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"checkpoint\.pt"):
        load_checkpoint(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="format 1, got None"):
        load_checkpoint(path)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoint import make
from fastclr.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)   # writes past the limit then fail as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_checkpoint(Path(sys.argv[1]), make(2, size=10**6))
"""


def test_failed_write_keeps_the_old_checkpoint_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, make(1))
    script = FULL_DISK.format(tests=str(Path(__file__).parent))
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "could not write" in result.stderr and "the previous checkpoint.pt is untouched" in result.stderr
    assert load_checkpoint(path).step == 1
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_log_is_cut_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    for step in (10, 20, 30):
        log.append({"kind": "train", "epoch": 1, "step": step})
    with open(log.path, "a") as file:
        file.write('{"kind": "train", "st')
    assert [r["step"] for r in log.read()] == [10, 20, 30]
    log.keep_up_to(20, 0)
    log.append({"kind": "train", "epoch": 1, "step": 30})
    assert [r["step"] for r in log.read()] == [10, 20, 30]


def test_an_evaluation_that_will_be_repeated_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2):
        log.append({"kind": "train", "epoch": epoch, "step": 10 * epoch})
        log.append({"kind": "eval", "epoch": epoch, "step": 10 * epoch})
    log.keep_up_to(20, 1)  # all steps of epoch 2 are done, its evaluation is not
    assert [(r["kind"], r["epoch"]) for r in log.read()] == [("train", 1), ("eval", 1), ("train", 2)]
