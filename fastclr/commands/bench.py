"""`fastclr bench loss|augment`: one workload on this machine, compared with the installed libraries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from fastclr.bench import machine
from fastclr.bench.augment_cases import AugmentCase
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_cases import LossCase
from fastclr.bench.rows import OURS, Contestant
from fastclr.bench.suite import Joined, failures, write
from fastclr.bench.table import text_table
from fastclr.bench.timing import Effort
from fastclr.device import resolve_device
from fastclr.sources.printable import show

LOSS_DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16"}
AUGMENT_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SLOW_SHARE = 4  # libraries that process single images on a CPU get one part in this many of the batch


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of both benchmarks."""

    against: tuple[str, ...] = ("all",)
    """Libraries to compare with, or all; those not installed are listed as such."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""
    seconds: float = 10.0
    """Time to spend on sampling; at least five samples of each library are taken."""
    json: Path | None = None
    """Also write the result to this file."""


@dataclass(frozen=True, kw_only=True)
class LossQuestion(Common):
    """NT-Xent, forward and backward: time, extra memory, gradient error, and share of the machine's limit."""

    n: int = 4096
    """Number of pairs; the loss has 2N rows."""
    dim: int = 128
    """Dimension of the embeddings."""
    dtype: Literal["fp64", "fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the embeddings; tf32 is fp32 with TF32 matrix products."""
    layout: Literal["ntxent", "clip"] = "ntxent"
    """`clip`: CLIP's loss over as many logits, for libraries that offer only that."""
    learnable: bool = False
    """Include the gradient of the temperature."""

    def case(self, device: torch.device) -> LossCase:
        """Return the workload.

        Raises:
            ValueError: a number is out of range.
        """
        for name, value in (("n", self.n), ("dim", self.dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        return LossCase(2 * self.n, self.dim, LOSS_DTYPES[self.dtype], self.layout, self.learnable, str(device))


@dataclass(frozen=True, kw_only=True)
class AugmentQuestion(Common):
    """Two random views of a batch: views per second, and share of the copy bandwidth."""

    size: int = 224
    """Side of the views in pixels; 32 uses the CIFAR recipe, without blur."""
    batch: int = 64
    """Number of images."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the views."""

    def case(self, device: torch.device) -> AugmentCase:
        """Return the workload.

        Raises:
            ValueError: a number is out of range.
        """
        for name, value in (("size", self.size), ("batch", self.batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        slow = max(1, self.batch // SLOW_SHARE) if device.type == "cpu" else self.batch
        return AugmentCase(self.size, self.batch, slow, AUGMENT_DTYPES[self.dtype], str(device))


Question = (
    Annotated[LossQuestion, tyro.conf.subcommand("loss", prefix_name=False)]
    | Annotated[AugmentQuestion, tyro.conf.subcommand("augment", prefix_name=False)]
)


def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    asked: LossQuestion | AugmentQuestion = tyro.cli(Question, args=arguments, prog="fastclr bench")
    if not asked.seconds > 0:
        raise ValueError(f"seconds must be positive, got {asked.seconds}")
    device = resolve_device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    case = asked.case(device)
    question = Joined(case)
    only = select_contestants(asked.against, question.contestants())
    ceilings, here = Ceilings(device), machine.describe(device)
    show(f"{here.get('gpu') or here['cpu']}, {here['threads']} threads, torch {torch.__version__}")
    if machine.is_busy(here):
        show(machine.busy_text(here))
    rows = question.run(ceilings, Effort(asked.seconds), only)
    show(text_table(case.name, rows))
    if asked.json is not None:
        write(asked.json, here, ceilings, [machine.command_line()], rows, [])
    if broken := failures(rows):
        raise ValueError("; ".join(f"{row.provider}: {row.status}: {row.note}" for row in broken))


def select_contestants(against: tuple[str, ...], contestants: list[Contestant]) -> tuple[str, ...]:
    """Return the names to run: fastclr and the requested libraries.

    Raises:
        ValueError: a name is unknown.
    """
    names = [contestant.name for contestant in contestants]
    if "all" in against:
        return tuple(names)
    if unknown := sorted(set(against) - set(names)):
        others = [name for name in names if not name.startswith(OURS)]
        raise ValueError(f"--against must be all or among {', '.join(others)}; got {', '.join(unknown)}")
    return tuple(name for name in names if name.startswith(OURS) or name in against)
