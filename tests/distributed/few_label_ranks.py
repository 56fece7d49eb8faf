"""Training on few labels on the ranks that torchrun started.

`python few_label_ranks.py RUN STATES` fine-tunes and distils a run. With PICTURES after that, RUN is new, and all
stages of SimCLR v2 run.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_run import TINY

from fastclr.augment import SimCLRAugment
from fastclr.training.build import load_data
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained
from fastclr.transfer.distill import DistillConfig, distill
from fastclr.transfer.finetune import FinetuneConfig, finetune
from fastclr.transfer.simclr_v2 import Plan, run_v2

TUNE = FinetuneConfig(share="50%", epochs=2, batch_size=16, lr=0.5)
DISTIL = DistillConfig(epochs=1, batch_size=32, label_weight=0.5)


def main(folder: Path, states: Path, *pictures: str) -> None:
    """Train in float64, which leaves no rounding to the order of summation, and save all networks."""
    torch.set_num_threads(1)
    for name in ("forward", "apply"):  # random views, and the fixed one of an evaluation
        views: Any = getattr(SimCLRAugment, name)
        setattr(SimCLRAugment, name, lambda self, *inputs, views=views: views(self, *inputs).double())
    torch.set_default_dtype(torch.float64)
    if pictures:
        config = dataclasses.replace(TINY, data=pictures[0], head_layers=3, head_bn=True, lr=0.05, epochs=2)
        plan = Plan(finetune=TUNE, distill=DISTIL, self_first=False, controls=False)
        run, _, (teacher, student) = run_v2(folder, config, plan)
        networks = [run.load_model(), teacher.model, student.model]
    else:
        run = Run.open(folder)
        run = Run(folder, dataclasses.replace(run.config, lr=0.05))
        data = load_data(run.config)
        teacher = finetune(run, data, TUNE)
        student = distill(run, data, teacher, DISTIL)
        networks = [teacher.model, student.model]
    rank = os.environ.get("RANK", "0")
    torch.save([network.state_dict() for network in networks], states / f"{rank}.pt")
    Trained.load(folder / str(student.result["name"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
    sys.stdout.flush()
    os._exit(0)  # threads of torch may outlive the interpreter and abort it
