"""A run goes on for longer than it was planned for: its rates by their closed form, its bits after a kill inside."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_run import differences
from tiny_run import TIMES, TINY

import fastclr
from fastclr.api import starting
from fastclr.cli import main
from fastclr.methods import parameter_groups
from fastclr.training.config import PretrainConfig
from fastclr.training.extend import longer
from fastclr.training.loop import pretrain_in
from fastclr.training.optim import Schedule, build_optimizer
from fastclr.training.run import Run
from fastclr.training.step import train_step

SHORT = dataclasses.replace(TINY, epochs=2, log_every=1, knn_every=0, warmup_epochs=1.0)
STEPS, PEAK = 4, 0.1  # of an epoch; of SHORT


def cosine(step: int, start: int, end: int) -> float:
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))


def planned_first(step: int) -> float:
    return PEAK * step / STEPS if step < STEPS else cosine(step, STEPS, 2 * STEPS)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run that has done its two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    pretrain_in(folder, dataclasses.replace(SHORT, data=str(pictures)))
    return folder


def rates(folder: Path) -> list[float]:
    return [record["train/lr"] for record in Run.open(folder).metrics.read() if record["kind"] == "train"]


@pytest.mark.slow
def test_a_finished_run_goes_on_and_a_second_time(short: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(short, tmp_path / "run")
    assert main(["pretrain", "--resume", str(folder), "--epochs", "4"]) == 0
    first = [planned_first(step) for step in range(8)]
    again = [cosine(step, 8, 16) for step in range(8, 16)]
    assert rates(folder) == pytest.approx(first + again, rel=1e-6, abs=1e-12)
    ended = fastclr.Run(folder).resume(epochs=5, extend="constant")
    assert rates(folder) == pytest.approx([*first, *again, *[PEAK] * 4], rel=1e-6, abs=1e-12)
    assert ended.config.extensions == ((2, 8, "cosine-restart"), (4, 16, "constant")) and ended.finished
    assert json.loads((folder / "config.json").read_text())["epochs"] == 5
    before = rates(folder)
    assert main(["pretrain", "--resume", str(folder), "--epochs", "5", "--extend", "constant"]) == 0  # nothing is left
    assert rates(folder) == before and fastclr.Run(folder).config.extensions == ended.config.extensions
    tuned = ended.finetune(share="100%", epochs=1, device="cpu")
    assert tuned.config.extensions == ()


def test_the_past_of_an_extended_run_is_that_of_the_short_one(short: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(short, tmp_path / "run")
    fastclr.Run(folder).resume(epochs=3)
    timeless = [
        {k: v for k, v in record.items() if k not in TIMES}
        for path in (short, folder)
        for record in Run.open(path).metrics.read()
        if record["step"] <= 8 and record["kind"] == "train"
    ]
    assert timeless[:8] == timeless[8:]


def stopped_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(training: Any, batch: Any) -> None:
        train_step(training, batch)
        if training.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("fastclr.training.loop.train_step", stepped)


@pytest.mark.slow
@pytest.mark.parametrize("extend", ["cosine-restart", "constant"])
def test_stop_and_damage_inside_the_extension_end_bit_for_bit(
    extend: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (shutil.copytree(short, tmp_path / name) for name in ("whole", "stopped"))
    command = ["--epochs", "4", "--extend", extend]
    assert main(["pretrain", "--resume", str(whole), *command]) == 0
    with monkeypatch.context() as patch:
        stopped_at(10, signal.SIGUSR1, patch)
        assert main(["pretrain", "--resume", str(stopped), *command]) == 128 + signal.SIGUSR1
    newest = stopped / "checkpoints" / "step-00000010.pt"
    assert newest.is_file()
    newest.write_bytes(b"")  # the checkpoint before is the last of the two epochs that were planned first
    assert main(["pretrain", "--resume", str(stopped), *command]) == 0  # a job that starts again gives the same line
    (stopped / "report.html").unlink()
    (whole / "report.html").unlink()
    assert differences(stopped, whole) == []


def test_an_unfinished_run_needs_a_schedule_and_keeps_its_past(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stopped_at(6, signal.SIGUSR2, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain_in(folder, dataclasses.replace(SHORT, data=str(pictures)))
    before = (folder / "config.json").read_bytes()
    assert main(["pretrain", "--resume", str(folder), "--epochs", "4"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is in epoch 2 of 2, with rates meant for 2: go on without --epochs, or add --extend" in said
    assert main(["pretrain", "--resume", str(folder), "--epochs", "4", "--lr", "1", "--extend", "constant"]) == 2
    assert "lr: 0.1 there, 1.0 now" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(folder), "--epochs", "1", "--warmup-epochs", "0"]) == 2
    assert "is in epoch 2 of 2" in capsys.readouterr().err
    assert (
        main(["pretrain", "--resume", str(folder), "--epochs", "1", "--warmup-epochs", "0", "--extend", "constant"])
        == 2
    )
    assert "must be more than the 1 done, got 1" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before
    fastclr.Run(folder).resume(epochs=3, extend="cosine-restart")
    expected = [*map(planned_first, range(6)), *(cosine(step, 6, 12) for step in range(6, 12))]
    assert rates(folder) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_checkpoint_before_the_extension_has_the_rates_and_the_total_of_before() -> None:
    config = PretrainConfig(data="shapes", epochs=9, warmup_share=0.5, lr=PEAK, extensions=((2, 6, "cosine-restart"),))
    model = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(config, parameter_groups(model, config.optimizer))
    schedule = Schedule(config, optimizer, STEPS)
    found = []
    for step in (3, 5, 6, 35, 4):  # also backwards: a schedule has no memory
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(
        [planned_first(3), planned_first(5), PEAK, cosine(35, 6, 36), planned_first(4)], abs=1e-12
    )
    assert [config.planned_at(step) for step in (0, 5, 6, 35)] == [2, 2, 9, 9]


@pytest.mark.parametrize(
    "extensions", [((2, 8, "linear"),), ((2, 8, "constant"), (4, 7, "constant")), ((0, 8, "constant"),)]
)
def test_other_extensions_than_fastclr_writes_are_refused(extensions: Any) -> None:
    with pytest.raises(ValueError, match="extensions must be as fastclr wrote them"):
        dataclasses.replace(SHORT, epochs=9, extensions=extensions, warmup_epochs=0.0)


def test_what_can_not_be_extended_is_said(short: Path, tmp_path: Path, pictures: Path) -> None:
    config = Run.open(short).config
    with pytest.raises(ValueError, match="must be more than the 2 done, got 1"):
        longer(short, dataclasses.replace(config, epochs=1, warmup_epochs=0.0))
    with pytest.raises(ValueError, match="extend must be one of cosine-restart, constant, got 'linear'"):
        longer(short, config, "linear")
    with pytest.raises(ValueError, match="epochs: 2 there, 4 now"):  # the loop itself makes no extension
        pretrain_in(short, dataclasses.replace(config, epochs=4), resume=True)
    with pytest.raises(ValueError, match="extend is for a run that goes on"):
        starting.start(config, tmp_path / "new", extend="constant")
    config.save(tmp_path / "config.json")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        longer(tmp_path, dataclasses.replace(config, epochs=4))


@pytest.mark.slow
def test_resume_auto_starts_and_then_goes_on(
    short: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    names = ("width", "epochs", "batch_size", "lr", "knn_every", "log_every", "amp", "device", "warmup_epochs")
    options = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(SHORT, name)))]
    line = ["pretrain", "--resume", "auto", "--data", str(pictures), "--out", str(folder), "--deterministic", *options]
    with monkeypatch.context() as patch:
        stopped_at(5, signal.SIGTERM, patch)
        assert main(line) == 143
    assert main(line) == 0 and main(line) == 0
    assert [found for found in differences(folder, short) if not found.startswith("files")] == []
    assert main([*line, "--epochs", "3", "--extend", "constant"]) == 0
    assert rates(folder) == pytest.approx([*map(planned_first, range(8)), *[PEAK] * 4], rel=1e-6, abs=1e-12)
    chosen = {name: getattr(SHORT, name) for name in names} | {"deterministic": True, "epochs": 3}
    assert fastclr.pretrain(pictures, out=folder, resume="auto", **chosen).finished
    with pytest.raises(ValueError, match="lr"):
        fastclr.pretrain(pictures, out=folder, resume="auto", **{**chosen, "lr": 0.2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("not a run")
    with pytest.raises(FileExistsError):
        fastclr.pretrain(pictures, out=tmp_path / "other", resume="auto", **chosen)
