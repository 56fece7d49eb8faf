"""A signal stops a run between two steps, with a checkpoint of that step and a matching exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastclr.training.run import Run
from fastclr.training.stopping import StopRequest


def latest_step(folder: Path) -> int:
    checkpoint = Run.open(folder).latest_checkpoint()
    return checkpoint.step if checkpoint else -1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 128 + signal.SIGUSR1)]
)
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals, status: int, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = ["--preset", "demo", "--data", str(pictures), "--out", str(folder), "--width", "0.125", "--device", "cpu"]
    command = [sys.executable, "-m", "fastclr", "pretrain", *options, "--batch-size", "32", "--log-every", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count('"train"') >= 3):
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == status
    records = [record for record in Run.open(folder).metrics.read() if record["kind"] == "train"]
    assert latest_step(folder) == records[-1]["step"] == len(records) >= 3
    assert f"stopped at step {len(records)}" in said and f"fastclr pretrain --resume {folder}" in said
    assert "Traceback" not in said


def test_the_second_ctrl_c_interrupts_at_once_but_not_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    stop = StopRequest()
    before = signal.getsignal(signal.SIGINT)
    with stop.watch():
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_nothing_is_caught() -> None:
    handlers = []

    def watch() -> None:
        with StopRequest().watch():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert handlers == [before]
