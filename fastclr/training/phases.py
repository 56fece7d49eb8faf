"""The learning rates of a run from its first step to its last, also where it was made longer than planned at first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

ExtensionKind = Literal["cosine-restart", "constant"]
# epochs that were planned before, the step from which on it holds, and the schedule from there
Extension = tuple[int, int, str]
# one cycle needs no decay between cycles, but without one timm remarks on a cosine of a single step
STEPWISE = {"t_in_epochs": False, "cycle_decay": 0.5}


class Phases:
    """A linear warm-up from zero, a cosine to zero, and for each extension of the training a schedule of its own.

    With peak p, step s from 0, w steps of warm-up and T steps planned at first: ``p s / w`` for s < w, then
    ``p (1 + cos(pi (s - w) / (T - w))) / 2``. From the step b at which an extension to T' steps began:
    ``cosine-restart``: ``p (1 + cos(pi (s - b) / (T' - b))) / 2``; ``constant``: p.

    Args:
        optimizer: its groups, each at its own peak.
        warmup: w.
        steps: planned at first.
        extensions: of each, in order: b, T' and the kind.

    Raises:
        ValueError: an extension has no step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup: int,
        steps: int,
        extensions: Sequence[tuple[int, int, str]] = (),
    ) -> None:
        from timm.scheduler import CosineLRScheduler

        self.optimizer = optimizer
        first = CosineLRScheduler(optimizer, t_initial=steps - warmup, warmup_t=warmup, warmup_prefix=True, **STEPWISE)
        self.phases: list[tuple[int, Any]] = [(0, first)]
        for start, end, kind in extensions:
            if end <= start:
                raise ValueError(f"epochs must leave steps to do: {start} steps are done already, of {end}")
            cosine = CosineLRScheduler(optimizer, t_initial=end - start, initialize=False, **STEPWISE)
            self.phases.append((start, cosine if kind == "cosine-restart" else None))

    def step_update(self, step: int) -> None:
        """Set the rates of the step with this index."""
        start, schedule = next(phase for phase in reversed(self.phases) if phase[0] <= step)
        if schedule is not None:
            schedule.step_update(step - start)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
