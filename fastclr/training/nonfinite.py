"""Tracing a NaN or an infinity to the stage of a step that first produced it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fastclr.training.metric_names import GRADIENT, LOSS, RATE, short_name

SHOWN_NAMES = 3
SHOWN_RECORDS = 5
DIVERGED = 1e6  # magnitudes in a healthy step stay far below this


# the most common cause of each stage breaking while every stage before it is finite
CAUSES = {
    "parameters": "an update that was too large: lower lr, lengthen the warm-up, or set clip_grad",
    "views": "a std of 0 in the augmentation, or images that are not finite",
    "buffers": "activations too large for the variance in batch normalisation: lower lr, lengthen the warm-up, or set "
    "clip_grad",
    "h": "encoder weights that have grown too large: lower lr, lengthen the warm-up, or set clip_grad",
    "z": "head weights that have grown too large: lower lr, lengthen the warm-up, or set clip_grad",
    "loss": "a temperature too close to 0, perhaps because it is learnt: raise it, or turn learnable_temperature off",
    "gradients": "a z close to 0, whose normalisation divides by its length, or an overflow in the backward pass: "
    "lower lr or lengthen the warm-up; clip_grad does not fix a NaN",
}


def explain_nonfinite(
    stages: Mapping[str, Tensor | Iterable[tuple[str, Tensor]]], records: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Report the first stage of a training step with a NaN or an infinity, and its likely cause.

    Args:
        stages: the stages in the order they were computed, each a tensor or (name, tensor) pairs as from
            `named_parameters`. Stages not in `CAUSES` are reported without a cause. Integer tensors are skipped.
            Nothing is modified.
        records: the metrics log, oldest first. The last record with a finite loss gives the last good step, and the
            last few give the history of `lr` and `grad_norm`, where present.

    Returns:
        A few lines: the first broken stage, the largest magnitude in each stage before it, the last good step and the
        likely cause.

    Raises:
        TypeError: a stage is neither a tensor nor pairs of a name and a tensor.
    """
    lines: list[str] = []
    before: list[str] = []
    grown = ""
    for stage, value in stages.items():
        tensors = [(n, t) for n, t in as_pairs(stage, value) if t.is_floating_point() and t.numel()]
        broken = [(name, tensor) for name, tensor in tensors if not bool(tensor.isfinite().all())]
        if broken:
            lines.append(f"first non-finite stage: {stage} ({describe_broken(broken, len(tensors))})")
            lines.append(f"finite before it: {', '.join(before) or 'nothing that was checked'}")
            if cause := grown or CAUSES.get(stage):
                lines.append(f"likely cause: {cause}")
            break
        if tensors:
            largest = max(float(tensor.detach().abs().max()) for _, tensor in tensors)
            before.append(f"{stage} (up to {largest:.2g})")
            if largest > DIVERGED and not grown:
                grown = f"training has diverged, {stage} first: lower lr, lengthen the warm-up, or set clip_grad"
    else:
        lines.append(f"everything that was checked is finite: {', '.join(before) or 'nothing'}")
    return "\n".join(lines + describe_history(records))


def as_pairs(stage: str, value: Tensor | Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return a stage as (name, tensor) pairs; a lone tensor has no name."""
    if isinstance(value, Tensor):
        return [("", value)]
    pairs = list(value) if isinstance(value, Iterable) else [value]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)):
            raise TypeError(f"{stage} must be a tensor or pairs of a name and a tensor, got {type(pair).__name__}")
    return pairs


def describe_broken(broken: list[tuple[str, Tensor]], total: int) -> str:
    """Describe the first few broken tensors and count the rest."""
    shown = []
    for name, tensor in broken[:SHOWN_NAMES]:
        nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = " and ".join(text for n, text in ((nan, f"{nan} NaN"), (inf, f"{inf} infinite")) if n)
        shown.append(f"{name + ': ' if name else ''}{counts} of {tensor.numel()} values")
    more = f"; {len(broken)} of {total} tensors in all" if len(broken) > SHOWN_NAMES else ""
    return "; ".join(shown) + more


def describe_history(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines about the last good step and the recent history of the learning rate and gradient norm."""
    train = [r for r in records if LOSS in r and "step" in r]
    good = [r for r in train if math.isfinite(r[LOSS])]
    if not good:
        return ["no step with a finite loss was logged"] if train else []
    lines = [f"last logged step with a finite loss: {good[-1]['step']} (loss {good[-1][LOSS]:.4g})"]
    for key in (RATE, GRADIENT):
        values = [f"{r[key]:.3g}" for r in train[-SHOWN_RECORDS:] if key in r]
        if values:
            lines.append(f"{short_name(key)} of the last records: {', '.join(values)}")
    return lines
