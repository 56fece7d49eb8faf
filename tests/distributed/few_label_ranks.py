"""Training on few labels on every rank."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
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


def train(folder: Path, pictures: Path | None) -> list[dict[str, torch.Tensor]]:
    """Fine-tune and distil a run, or with `pictures` pass all stages of SimCLR v2 in a new one; return all networks.

    In float64, which leaves no rounding to the order of summation.
    """
    for name in ("forward", "apply"):  # random views, and the fixed one of an evaluation
        views: Any = getattr(SimCLRAugment, name)
        setattr(SimCLRAugment, name, lambda self, *inputs, views=views: views(self, *inputs).double())
    torch.set_default_dtype(torch.float64)
    if pictures:
        config = dataclasses.replace(TINY, data=str(pictures), head_layers=3, head_bn=True, lr=0.05, epochs=2)
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
    Trained.load(folder / str(student.result["name"]))
    return [network.state_dict() for network in networks]
