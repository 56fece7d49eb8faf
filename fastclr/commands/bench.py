"""`fastclr bench loss|augment`: one workload on this machine, beside the libraries that are installed."""

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
SLOW_SHARE = 4  # what works image by image on a CPU gets this part of the batch


@dataclass(frozen=True, kw_only=True)
class Common:
    """What both questions share."""

    against: tuple[str, ...] = ("all",)
    """Names of libraries, or all; one that is not installed is listed as such."""
    device: str = "auto"
    """`auto` (CUDA if there is one), or a torch device."""
    seconds: float = 10.0
    """Time to spend on samples; at least five of each library are taken."""
    json: Path | None = None
    """Also write the result to this file."""


@dataclass(frozen=True, kw_only=True)
class LossQuestion(Common):
    """NT-Xent, forward and backward: time, extra memory, error of the gradient, share of what the machine allows."""

    n: int = 4096
    """Pairs; the loss has 2N rows."""
    dim: int = 128
    """Length of an embedding."""
    dtype: Literal["fp64", "fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the embeddings; tf32 is fp32 with TF32 matrix products."""
    layout: Literal["ntxent", "clip"] = "ntxent"
    """`clip`: CLIP's loss over as many logits, for libraries that have only that."""
    learnable: bool = False
    """With the gradient of the temperature."""

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
    """Two random views of a batch: views per second, and the share of the copy bandwidth."""

    size: int = 224
    """Side of the views in pixels; 32 takes the CIFAR recipe, without blur."""
    batch: int = 64
    """Images."""
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
    only = chosen(asked.against, question.contestants())
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


def chosen(against: tuple[str, ...], contestants: list[Contestant]) -> tuple[str, ...]:
    """Return the names to run: fastclr, and those asked for.

    Raises:
        ValueError: an unknown name.
    """
    names = [contestant.name for contestant in contestants]
    if "all" in against:
        return tuple(names)
    if unknown := sorted(set(against) - set(names)):
        others = [name for name in names if not name.startswith(OURS)]
        raise ValueError(f"--against must be all or among {', '.join(others)}; got {', '.join(unknown)}")
    return tuple(name for name in names if name.startswith(OURS) or name in against)
