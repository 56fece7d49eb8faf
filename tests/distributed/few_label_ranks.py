"""Fine-tuning and distillation on the ranks that torchrun started: `python few_label_ranks.py RUN STATES`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch

from fastclr.augment import SimCLRAugment
from fastclr.training.build import load_data
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained
from fastclr.transfer.distill import DistillConfig, distill
from fastclr.transfer.finetune import FinetuneConfig, finetune


def main(folder: Path, states: Path) -> None:
    """Tune and distil in float64, which leaves no rounding to the order of summation, and save both networks."""
    torch.set_num_threads(1)
    for name in ("forward", "apply"):  # random views, and the fixed one of an evaluation
        views: Any = getattr(SimCLRAugment, name)
        setattr(SimCLRAugment, name, lambda self, *inputs, views=views: views(self, *inputs).double())
    torch.set_default_dtype(torch.float64)
    run = Run.open(folder)
    run = Run(folder, dataclasses.replace(run.config, lr=0.05))
    data = load_data(run.config)
    teacher = finetune(run, data, FinetuneConfig(share="50%", epochs=2, batch_size=16, lr=0.5))
    student = distill(run, data, teacher, DistillConfig(epochs=1, batch_size=32, label_weight=0.5))
    rank = os.environ.get("RANK", "0")
    torch.save([teacher.model.state_dict(), student.model.state_dict()], states / f"{rank}.pt")
    Trained.load(folder / str(student.result["name"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # threads of torch may outlive the interpreter and abort it
