"""Fine-tuning, distillation and all stages of v2 on two ranks are those of one process, and go on after a kill."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from few_label_ranks import train
from forked import on_ranks, run, start
from tiny_run import TIMES, TINY

from fastclr.cli import main
from fastclr.evaluate import state_hash
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), head_layers=3, epochs=1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stages", ["few labels", "v2"])
def test_two_ranks_end_where_one_process_ends(stages: str, pretrained: Path, pictures: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        if stages == "few labels":
            shutil.copytree(pretrained, folder)
        found += on_ranks(count, train, folder, pictures if stages == "v2" else None)
    one, *ranks = found
    assert len(ranks) == 2 and len(one) == (3 if stages == "v2" else 2)
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
    if command == "distill":
        teach = ["finetune", str(whole), "--share", "50%", "--epochs", "1", "--batch-size", "16"]
        assert main([*teach, "--device", "cpu", "--deterministic"]) == 0
        shutil.copytree(whole, parts, dirs_exist_ok=True)
    arguments = [*options, "--device", "cpu", "--deterministic"]
    assert main([command, str(whole), *arguments]) == 0
    log = parts / name / "seed-0" / "metrics.jsonl"
    kill_and_repeat([command, str(parts), *arguments], [log], range(1, 6))
    ours, expected = (Trained.load(folder / name) for folder in (parts, whole))
    assert state_hash(ours.model) == state_hash(expected.model)
    assert ours.result == expected.result


def kill_and_repeat(command: list[str], logs: list[Path], moments: Iterable[int]) -> None:
    """Kill a command whenever its logs have so many lines in all, and repeat it, at last to its end."""
    for lines in moments:
        process = start(main, command)
        while process.is_alive() and sum(log.read_text().count("\n") for log in logs if log.exists()) < lines:
            time.sleep(0.01)
        assert process.is_alive(), f"it ended before its logs had {lines} lines"
        process.kill()
        process.join()
    run(main, command)


V2 = [
    "--head-layers",
    "3",
    "--epochs",
    "4",
    "--width",
    "0.125",
    "--batch-size",
    "16",
    "--log-every",
    "2",
    "--seed",
    "3",
]
V2 += ["--knn-every", "2", "--warmup-epochs", "0", "--device", "cpu", "--deterministic", "--checkpoint-every", "3"]
V2 += ["--finetune.share", "50%", "--finetune.epochs", "6", "--finetune.batch-size", "8"]
V2 += ["--distill.student", "resnet10t", "--distill.student-width", "0.125", "--distill.epochs", "4"]


@pytest.mark.slow
def test_all_stages_killed_five_times_at_random_end_bit_for_bit(pictures: Path, tmp_path: Path) -> None:
    tuned, student = "finetune-50pct", "distill-50pct-resnet10t-0.125x"
    commands = {
        name: ["v2", "--data", str(pictures), "--out", str(tmp_path / name), *V2] for name in ("whole", "parts")
    }
    assert main(commands["whole"]) == 0
    logs = {
        name: [tmp_path / name / stage / "metrics.jsonl" for stage in (".", f"{tuned}/seed-0", f"{student}/seed-0")]
        for name in commands
    }
    counts = [log.read_text().count("\n") for log in logs["whole"]]
    ends, draw = list(itertools.accumulate(counts)), random.Random(16)
    in_each = [draw.randrange(end - count + 1, end) for end, count in zip(ends, counts, strict=True)]
    moments = sorted([*in_each, *(draw.randrange(1, ends[-1]) for _ in range(2))])
    kill_and_repeat(commands["parts"], logs["parts"], moments)
    whole, parts = (Run.open(tmp_path / name) for name in ("whole", "parts"))
    assert state_hash(parts.load_model()) == state_hash(whole.load_model())
    for name in (tuned, student):
        ours, expected = (Trained.load(run.folder / name) for run in (parts, whole))
        assert state_hash(ours.model) == state_hash(expected.model) and ours.result == expected.result
    records = [[without_times(log) for log in logs[name]] for name in ("parts", "whole")]
    assert records[0] == records[1]


def without_times(log: Path) -> list[dict[str, Any]]:
    """The records of a log but for what is measured by a clock."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]
