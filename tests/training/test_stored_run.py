"""A run that predates the `method` option (checkpoint format 2, flat configuration) still behaves as it did.

`stored_run` holds its state after 6 of its 12 steps, and `end.*` its results.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastclr.cli import main
from fastclr.methods import SimCLROptions
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run

# not logged when it was made
LATER = {"health/std", "health/rankme", "time/processor_s", "memory/peak_bytes", "eval/linear_top1"}
# noisy
LOOSE = {"kind", "eval/knn_top1", "train/linear_top1", "train/contrastive_accuracy"}
STORED = Path(__file__).with_name("stored_run")
# what its log calls otherwise than NAME of train/NAME
NAMES = {
    "kind": "kind",
    "epoch": "epoch",
    "step": "step",
    "knn": "eval/knn_top1",
    "online_probe_accuracy": "train/linear_top1",
    "train_s": "time/train_s",
    "first_step_s": "time/first_step_s",
}


@pytest.fixture
def folder(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, with its images where its configuration expects them."""
    shutil.copytree(STORED, tmp_path / "run", ignore=shutil.ignore_patterns("end.*"))
    (tmp_path / "pictures").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_its_files_are_read(folder: Path) -> None:
    run = Run.open(folder)
    assert run.config.options == SimCLROptions(temperature=0.3, learnable_temperature=True)
    assert (run.config.method, run.config.width, run.config.batch_size) == ("simclr", 0.0625, 32)
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None and (checkpoint.epoch, checkpoint.step_in_epoch, checkpoint.step) == (1, 2, 6)
    raw = torch.load(folder / "checkpoints" / "step-00000006.pt", weights_only=True)
    assert len(checkpoint.method) == len(raw["model"]) + 1
    for name, value in raw["model"].items():
        assert torch.equal(checkpoint.method[name], value)
    assert torch.equal(checkpoint.method["criterion.log_temperature"], raw["loss"]["log_temperature"])
    sums = [float(value) for value in checkpoint.totals.values()]
    assert sums == raw["totals"].tolist() and float(checkpoint.totals["steps"]) == 1


def test_it_goes_on_and_ends_as_it_did(folder: Path) -> None:
    """Bit-identical on the machine that made it; elsewhere kernels may round differently."""
    run = Run.open(folder)
    pretrain_in(folder, run.config, resume=True, progress=False)
    for name, expected in load_file(STORED / "end.safetensors").items():
        torch.testing.assert_close(load_file(folder / "encoder.safetensors")[name], expected, rtol=1e-3, atol=1e-4)
    timed = {"train/images_per_s", "time/train_s", "time/first_step_s"}
    lines = [json.loads(line) for line in (STORED / "end.jsonl").read_text().splitlines()]
    records = [{NAMES.get(name, f"train/{name}"): value for name, value in line.items()} for line in lines]
    for found, expected in zip(run.metrics.read(), records, strict=True):
        assert found.keys() - LATER == expected.keys()
        for name in expected.keys() - timed - LOOSE:
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_it_is_evaluated_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knn", str(folder), "--device", "cpu"]) == 0
    assert "kNN accuracy" in capsys.readouterr().out
    assert main(["probe", str(folder), "--device", "cpu", "--l2", "0.1"]) == 0
    assert main(["report", str(folder), "--device", "cpu"]) == 0
    assert "simclr.temperature" in (folder / "report.html").read_text()
