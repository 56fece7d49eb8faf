"""Training on several processes equals training on one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import on_ranks, run
from reopen_ranks import meet_without_a_cpu_backend
from tiny_run import TINY
from torch import distributed
from train_ranks import APART, evaluate_between, train

import fastclr.parallel
from fastclr.cli import main
from fastclr.training.build import build
from fastclr.training.evaluation import run_features
from fastclr.training.run import Run

# two busy threads of one process on two cores wait for those of the others
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
FASTCLR = ["-m", "fastclr"]


def torchrun(ranks: int, *command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *command]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_ranks_end_where_one_process_ends(optimizer: str, pictures: Path) -> None:
    (one,) = on_ranks(1, train, str(pictures), optimizer, 20)
    for size in (2, 4):
        ranks = on_ranks(size, train, str(pictures), optimizer, 20)
        for name, expected in one["state"].items():
            for found in ranks:
                torch.testing.assert_close(found["state"][name], expected, rtol=1e-7, atol=1e-9, msg=name)
        # loss, accuracy, entropy and their count, summed over ranks
        torch.testing.assert_close(ranks[0]["totals"] / size, one["totals"], rtol=1e-7, atol=1e-7)
        for found in ranks:  # the ranks share the images of an evaluation, and each gets all features
            for name in ("train", "train_labels", "test", "test_labels"):
                torch.testing.assert_close(found[name], one[name], rtol=1e-4, atol=1e-4)
        share = 32 // size
        shares = torch.stack([found["ids"].view(20, share) for found in ranks], dim=1)
        assert torch.equal(shares.reshape(-1), one["ids"])


def test_a_score_is_that_of_one_encoder_and_changes_no_training(pictures: Path) -> None:
    """Ranks with statistics of their own score the encoder of the first, as a process alone does; training goes on."""
    first, second = on_ranks(2, evaluate_between, str(pictures))
    config = dataclasses.replace(TINY, data=str(pictures))
    training = build(config)
    for case in APART:
        states = first[case]["encoder"], second[case]["encoder"]
        assert not torch.equal(*(state["bn1.running_mean"] for state in states))
        training.method.encoder.load_state_dict(states[0])
        expected = run_features(training.method.encoder, training.data, config).test
        for rank in (first, second):
            torch.testing.assert_close(rank[case]["features"], expected, rtol=1e-5, atol=1e-6)
            for name, value in rank[case]["evaluated False"].items():
                assert torch.equal(rank[case]["evaluated True"][name], value), name


def pretrain(folder: Path, pictures: Path, *options: str) -> list[str]:
    start = ["--preset", "demo", "--data", str(pictures), "--out", str(folder)] if not folder.exists() else []
    fixed = ["--width", "0.125", "--batch-size", "32", "--epochs", "6", "--warmup-epochs", "1", "--deterministic"]
    resume = ["--resume", str(folder)] if folder.exists() else fixed
    return ["pretrain", *start, *resume, "--device", "cpu", "--log-every", "1", *options]


def latest_step(folder: Path) -> int:
    checkpoint = Run.open(folder).latest_checkpoint()
    return checkpoint.step if checkpoint else -1


def wait_for(log: Path, steps: int, process: subprocess.Popen[Any]) -> None:
    while process.poll() is None and not (log.exists() and log.read_text().count('"train"') >= steps):
        time.sleep(0.02)


def losses(folder: Path) -> list[float]:
    return [record["train/loss"] for record in Run.open(folder).metrics.read() if record["kind"] == "train"]


@pytest.mark.slow
def test_stopped_on_four_ranks_and_resumed_on_two(pictures: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(main, pretrain(whole, pictures))
    process = subprocess.Popen(
        torchrun(4, *FASTCLR, *pretrain(parts, pictures)), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    wait_for(parts / "metrics.jsonl", 9, process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=300)
    stopped = latest_step(parts)
    assert 9 <= stopped < 24
    assert len(losses(parts)) == stopped  # the checkpoint is that of the step at which the signal came
    assert on_ranks(2, main, pretrain(parts, pictures)) == [0, 0]
    # float32: the order of summation differs with the ranks, and every step multiplies it
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-2)
    assert [r["epoch"] for r in Run.open(parts).metrics.read() if r["kind"] == "eval"] == [0, 6]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_ends_the_job(victim: int, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = torchrun(2, *FASTCLR, *pretrain(folder, pictures, "--epochs", "100000"))
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(folder / "metrics.jsonl", 3, process)
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    assert not workers(process.pid)


def workers(parent: int) -> list[int]:
    """Process numbers of the ranks, in order."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = status.read_text().split(" (", 1)[0], status.read_text().rsplit(")", 1)[1].split()
            if int(rest[1]) == parent:
                environment = (status.parent / "environ").read_text().split("\0")
                ranks = [entry for entry in environment if entry.startswith("RANK=")]
                found += [(ranks[0], int(number))] if ranks else []
        except OSError:
            continue
    return [number for _, number in sorted(found)]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    from fastclr.parallel import World

    world = World(0, 3, torch.device("cpu"), None)
    assert world.share(96) == 32
    with pytest.raises(ValueError, match=r"got 256 for 3 processes"):
        world.share(256)


def test_processes_with_other_images_are_refused(pictures: Path, tmp_path: Path) -> None:
    """A file is missing on one machine: the shares of a step would overlap, and the epochs may differ in length."""
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    next((other / "train").glob("*/*.png")).unlink()
    script = tmp_path / "start.py"
    script.write_text(
        "import os, sys\nfrom fastclr.cli import main\n"
        f"data = [{str(pictures)!r}, {str(other)!r}][int(os.environ['RANK'])]\n"
        "sys.exit(main(sys.argv[1:] + ['--data', data]))\n"
    )
    folder = tmp_path / "run"
    options = ["--preset", "demo", "--width", "0.125", "--batch-size", "32", "--epochs", "1", "--warmup-epochs", "0"]
    command = torchrun(2, str(script), "pretrain", *options, "--device", "cpu", "--out", str(folder))
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode != 0 and not folder.exists()
    assert "the processes do not have the same images: this one has 128 of" in result.stderr


def test_a_group_for_gpus_alone_gets_one_for_the_cpu_beside_it() -> None:
    for rank, found in enumerate(on_ranks(2, meet_without_a_cpu_backend)):
        assert "must have a backend for cpu, the device of the run, got cuda:gloo" in found["refused"]
        assert found["any"] == 11 and int(found["sum"]) == 3 and found["joined"].tolist() == [0, 1, 2, 3, 4]
        assert found["agreed"] == (True, False) and found["one group"]
        assert found["device"] == f"cuda:{rank}"


@pytest.mark.parametrize(
    ("device", "local", "expected"), [("cuda:1", None, 1), ("cuda:1", "0", 1), ("cuda", "2", 2), ("cuda", None, 3)]
)
def test_in_a_group_of_the_caller_the_gpu_is_the_one_that_is_named(
    device: str, local: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torchrun, as with mp.spawn, no environment says which GPU a process takes."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(fastclr.parallel, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for name, value in (("LOCAL_RANK", local), ("WORLD_SIZE", None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with fastclr.parallel.open_world(device) as world:
            assert world.device == torch.device("cuda", expected) and chosen == [world.device]
        monkeypatch.setenv("WORLD_SIZE", "2")
        if device == "cuda:1" and local is None:
            with fastclr.parallel.open_world(device) as world:
                assert world.device == torch.device("cuda", 1)
        elif device == "cuda:1":
            with pytest.raises(ValueError, match="without a number for 2"), fastclr.parallel.open_world(device):
                pass
    finally:
        distributed.destroy_process_group()


def test_ranks_meet_again_however_often_they_part() -> None:
    """A command may open the world for each of its trainings, while the slower rank still leaves the one before."""
    script = str(Path(__file__).with_name("reopen_ranks.py"))
    done = subprocess.run(
        torchrun(2, script), env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout == "worlds 6\n", done.stderr[-3000:]
