"""What a training says of itself: a bar of the whole run, lines with the time that is left, and `train.log`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from fastclr.cli import main
from fastclr.training import progress
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.progress import Progress, in_words
from fastclr.training.run import Run
from fastclr.training.train_log import TrainLog

RECORD = {"kind": "train", "epoch": 1, "step": 5, "train/loss": 5.25, "train/images_per_s": 99.6, "health/rankme": 12.4}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def make(folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, done: int = 0) -> Progress:
    monkeypatch.setattr(Run, "say", lambda self, text: said.append(text))
    return Progress(Run(folder, PretrainConfig()), 4, 10, done, bar=False, speaks=True)


def test_the_time_left_is_that_of_all_steps_to_come_without_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    clock, shown = Clock(monkeypatch), make(tmp_path, said, monkeypatch)
    assert shown.left() == ""
    clock.now += 500  # the first step compiles
    shown.update()
    assert shown.left() == ""
    for _ in range(9):
        clock.now += 2
        shown.update()
    shown.show(RECORD)
    shown.end_epoch()
    assert said == ["epoch 1/4: loss 5.250, rank 12, 100 images/s, 1 min left"]  # 30 steps of 2 s
    shown.end_epoch()  # nothing new was recorded
    clock.now += 18  # an evaluation: 10 steps have taken 36 s, and 29 are to come
    shown.update()
    assert len(said) == 1 and shown.left() == f"{in_words(29 * 36 / 10)} left"


def test_without_a_terminal_a_long_epoch_says_something_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    clock, shown = Clock(monkeypatch), make(tmp_path, said, monkeypatch, done=22)
    for _ in range(8):
        clock.now += 31
        shown.update()
        shown.show(RECORD)
    assert [line.partition(":")[0] for line in said] == [f"epoch 3/4, step {step} of 10" for step in (4, 6, 8)]
    assert said[0].endswith("100 images/s, 8 min 16 s left")  # 16 steps of 31 s
    assert all(re.search(r", \d.* left$", line) for line in said)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_bar_is_one_of_the_whole_run_with_loss_health_and_score(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar:
        disable = False

        def __init__(self, **options: Any) -> None:
            self.options, self.count, self.shown, self.titles, self.closed = options, 0, [], [], False
            bars.append(self)

        def update(self) -> None:
            self.count += 1

        def set_postfix_str(self, text: str) -> None:
            self.shown.append(text)

        def set_description_str(self, text: str, refresh: bool = True) -> None:
            self.titles.append(text)

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(Run, "bar", lambda self, total, initial, *_: Bar(total=total, initial=initial))
    config = dataclasses.replace(tiny, epochs=2, knn_every=1, online_probe=True)
    pretrain_in(tmp_path / "run", config)
    (bar,) = bars
    steps = 2 * (128 // 32)
    assert (bar.options, bar.count, bar.closed) == ({"total": steps, "initial": 0}, steps, True)
    assert bar.titles == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(r"loss [\d.]+, contrastive accuracy [\d.]+, linear top1 [\d.]+, rank \d+", bar.shown[0])
    assert re.fullmatch(r"loss .*, rank \d+, kNN [\d.]+%, linear [\d.]+%", bar.shown[-1])


def test_train_log_holds_what_the_terminal_said_and_why_it_ended(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    pretrain_in(run, dataclasses.replace(tiny, epochs=2))
    said = capsys.readouterr().err.splitlines()
    lines = (run / "train.log").read_text().splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
    assert all(stamp.match(line) for line in lines)
    assert [stamp.sub("", line) for line in lines] == said
    assert said[0].startswith("SimCLR: building resnet18") and said[-1].startswith("epoch 2/2: kNN")

    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("fastclr.training.loop.evaluate_epoch", broken)
    with pytest.raises(MemoryError):
        pretrain_in(run, dataclasses.replace(tiny, epochs=3, extensions=((2, 8, "constant"),)), resume=True)
    added = (run / "train.log").read_text().splitlines()
    assert added[: len(lines)] == lines and added[-1].endswith(" MemoryError: no room")


def test_a_log_without_a_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"), TrainLog() as told:
        told.add("a line")
        told.open(tmp_path / "nowhere" / "train.log")
    with pytest.raises(ZeroDivisionError), TrainLog() as told:
        told.add(str(1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_resumed_by_the_name_of_its_last_checkpoint_alone(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain_in(tmp_path / "run", dataclasses.replace(tiny, epochs=2, keep_checkpoints=2)).run
    assert main(["pretrain", "--resume", str(run.checkpoints / "last")]) == 0
    assert main(["pretrain", "--resume", str(run.checkpoints / "step-00000008.pt")]) == 0
    assert main(["pretrain", "--resume", str(run.checkpoints / "step-00000004.pt")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "which is" in said and "step-00000008.pt, got" in said and "--init" in said
