"""Processes of tests, forked from one that has imported everything, so that imports are paid for once.

Each may be killed, ends with a status and has the environment and the folder of the test. It shares what importing did
with the others that are forked, but not with the test itself, whose strings have other hashes.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import distributed

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "timm",
        "fastclr.training.loop",
        "fastclr.training.evaluation",
        "fastclr.transfer.distill",
        "fastclr.commands.pretrain",
    ]
)
PLAIN = multiprocessing.get_all_start_methods()[0]  # the default of a fresh interpreter
TIMEOUT_S = 1200


class Said(NamedTuple):
    """What a process wrote to its standard output and error output."""

    out: str
    err: str


def start(function: Callable[..., int | None], *arguments: Any, said: Path | None = None) -> ForkServerProcess:
    """Start a process that ends with the status `function(*arguments)` returns; `said` is a folder for its outputs."""
    outputs = [os.devnull, os.devnull] if said is None else [str(said / "out"), str(said / "err")]
    process = FORK.Process(target=_enter, args=(dict(os.environ), outputs, function, *arguments))
    process.start()
    return process


def run(function: Callable[..., int | None], *arguments: Any, status: int = 0) -> Said:
    """Return what a process said that must end with this status."""
    with TemporaryDirectory() as folder:
        process = start(function, *arguments, said=Path(folder))
        process.join(TIMEOUT_S)
        process.kill()
        said = Said(*((Path(folder) / name).read_text() for name in Said._fields))
    assert process.exitcode == status, f"status {process.exitcode}\n{said.out[-3000:]}\n{said.err[-3000:]}"
    return said


def script(path: Path | str, *arguments: str) -> None:
    """Run a script as `python path arguments` does: for `run` and `start`."""
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(str(path), run_name="__main__")


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns on every rank; the processes find each other as those of torchrun."""
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    found = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environment = os.environ | found | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    with TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _enter_rank, (environment, folder, function, *arguments), nprocs=ranks, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _enter(
    environment: dict[str, str], outputs: list[str], function: Callable[..., int | None], *arguments: Any
) -> None:
    _become(environment)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.exit(function(*arguments))


def _enter_rank(
    rank: int, environment: dict[str, str], folder: str, function: Callable[..., Any], *arguments: Any
) -> None:
    _become(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _become(environment: dict[str, str]) -> None:
    # not the method by which this process was started: its workers would outlive it
    multiprocessing.set_start_method(PLAIN, force=True)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
