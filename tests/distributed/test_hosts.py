"""Two machines train one model and go on after a process or a machine was lost: c10d rendezvous over a network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import run
from hosts import Host, two_hosts, why_not

from fastclr.cli import main
from fastclr.training.run import Run

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
PORT = "29511"
STEPS = 24


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as pair:
        yield pair


def torchrun(host: Host, main: Host, rank: int, *command: str) -> list[str]:
    """Return the command of one node of two with a process each."""
    place = f"--rdzv-endpoint={main.address}:{PORT}"
    options = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-id=fastclr",
        place,
        "--max-restarts=3",
    ]
    options += [
        f"--local-addr={host.address}",
        f"--node-rank={rank}",
        f"--rdzv-conf=is_host={int(rank == 0)},join_timeout=120,last_call_timeout=2,keep_alive_interval=1",
    ]
    return host.command(sys.executable, "-m", "torch.distributed.run", *options, *command)


def start(hosts: tuple[Host, Host], rank: int, *command: str) -> subprocess.Popen[str]:
    host = hosts[rank]
    return subprocess.Popen(
        torchrun(host, hosts[0], rank, *command),
        # else torch keeps the store of the first round, and a host that comes back waits for its address in vain
        env=host.environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(nodes: list[subprocess.Popen[str]]) -> None:
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
        node.communicate()


def pretrain(pictures: Path, folder: Path) -> list[str]:
    options = ["--preset", "demo", "--data", str(pictures), "--width", "0.125", "--batch-size", "32", "--device", "cpu"]
    options += [
        "--epochs",
        "6",
        "--warmup-epochs",
        "1",
        "--knn-every",
        "0",
        "--log-every",
        "1",
        "--checkpoint-every",
        "1",
    ]
    options += ["--amp", "off", "--lr", "0.01", "--deterministic"]
    return ["pretrain", "--resume", "auto", "--out", str(folder), *options]


def losses(folder: Path) -> list[float]:
    return [record["train/loss"] for record in Run.open(folder).metrics.read() if record["kind"] == "train"]


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in Run.open(folder).load_encoder().parameters()])


def steps(folder: Path) -> int:
    return len(losses(folder)) if (folder / "config.json").exists() else 0


def wait_for(count: int, folder: Path, main: subprocess.Popen[str]) -> None:
    """Wait until the run has so many steps, while the first host works on it."""
    deadline = time.monotonic() + 240
    while steps(folder) < count and time.monotonic() < deadline and main.poll() is None:
        time.sleep(0.05)
    assert count <= steps(folder) < STEPS, main.poll()


def test_two_hosts_end_where_one_process_ends_also_after_a_process_and_a_host_are_lost(
    hosts: tuple[Host, Host], pictures: Path, tmp_path: Path
) -> None:
    run(main, pretrain(pictures, tmp_path / "one"))
    command = ["-m", "fastclr", *pretrain(pictures, tmp_path / "two")]
    nodes = [start(hosts, rank, *command) for rank in range(2)]
    try:
        wait_for(5, tmp_path / "two", nodes[0])
        # the process that trains on the second host, not its torchrun, which lives to start another
        found = subprocess.run(["pgrep", "-P", str(nodes[1].pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        wait_for(12, tmp_path / "two", nodes[0])
        hosts[1].lose_power()
        assert nodes[1].wait(timeout=60) == -signal.SIGKILL
        time.sleep(3)
        assert nodes[0].poll() is None and (before := steps(tmp_path / "two")) < STEPS
        hosts[1].connect()
        lost, nodes[1] = nodes[1], start(hosts, 1, *command)  # as the system of the host does at its start
        lost.communicate()
        said = [node.communicate(timeout=300)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], "\n".join(text[-2000:] for text in said)
    finally:
        end(nodes)
    assert said[0].count("from epoch") == 2  # it went on from a checkpoint, twice
    assert before >= 12 and len(losses(tmp_path / "two")) == STEPS
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ours, theirs = (weights(tmp_path / name) for name in ("two", "one"))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-2
