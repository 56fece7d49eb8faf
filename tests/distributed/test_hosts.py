"""Two machines train one model, and go on after one of them was killed: torchrun's c10d rendezvous over a network."""

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
from hosts import Host, two_hosts, why_not

from fastclr.training.run import Run

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]
PORT = "29511"


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
        f"--rdzv-conf=is_host={int(rank == 0)},join_timeout=120,last_call_timeout=2",
    ]
    return host.command(sys.executable, "-m", "torch.distributed.run", *options, *command)


def start(hosts: tuple[Host, Host], *command: str) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            torchrun(host, hosts[0], rank, *command),
            env=host.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank, host in enumerate(hosts)
    ]


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
    return ["-m", "fastclr", "pretrain", "--resume", "auto", "--out", str(folder), *options]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in Run.open(folder).metrics.read() if record["kind"] == "train"]


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in Run.open(folder).load_encoder().parameters()])


def steps(folder: Path) -> int:
    return len(losses(folder)) if (folder / "config.json").exists() else 0


def test_two_hosts_end_where_one_process_ends_also_after_a_kill(
    hosts: tuple[Host, Host], pictures: Path, tmp_path: Path
) -> None:
    one = [sys.executable, *pretrain(pictures, tmp_path / "one")]
    subprocess.run(one, env=hosts[0].environment(), check=True, capture_output=True, timeout=300)
    nodes = start(hosts, *pretrain(pictures, tmp_path / "two"))
    try:
        deadline = time.monotonic() + 240
        while steps(tmp_path / "two") < 9 and time.monotonic() < deadline and nodes[0].poll() is None:
            time.sleep(0.05)
        # the process that trains on the second host, not its torchrun, which lives to start another
        found = subprocess.run(["pgrep", "-P", str(nodes[1].pid)], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        said = [node.communicate(timeout=300)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], "\n".join(text[-2000:] for text in said)
    finally:
        end(nodes)
    assert len(losses(tmp_path / "two")) == 24
    assert "from epoch" in said[0]  # it went on from a checkpoint
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    ours, theirs = (weights(tmp_path / name) for name in ("two", "one"))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-2
