"""Names of what is logged: the same in `metrics.jsonl`, TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# what every record has, beside its metrics
PLAIN = ("kind", "epoch", "step")
LOSS, RATE, GRADIENT = "train/loss", "train/lr", "train/grad_norm"
KNN, LINEAR, ONLINE = "eval/knn_top1", "eval/linear_top1", "train/linear_top1"
STD, RANK = "health/std", "health/rankme"
SPEED, SECONDS, FIRST = "train/images_per_s", "time/train_s", "time/first_step_s"
PROCESSOR, PEAK = "time/processor_s", "memory/peak_bytes"
# what is drawn or computed with, and so must be a number
NUMBERS = {LOSS, RATE, GRADIENT, KNN, LINEAR, ONLINE, STD, RANK, SPEED, SECONDS, FIRST, PROCESSOR, PEAK}
# names in records of before 0.1.0, and within a step; any other is KIND/NAME now
RENAMED = {
    "knn": KNN,
    "embedding_std": STD,
    "embedding_rank": RANK,
    "online_probe_accuracy": ONLINE,
    "train_s": SECONDS,
    "first_step_s": FIRST,
    "processor_s": PROCESSOR,
    "peak_bytes": PEAK,
}


def full_name(kind: str, name: str) -> str:
    """Return the name under which a record of a kind has a metric: ``loss`` of ``train`` is ``train/loss``."""
    return name if "/" in name or name in PLAIN else RENAMED.get(name, f"{kind}/{name}")


def full_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the present names, whenever it was written."""
    return {full_name(str(record.get("kind")), name): value for name, value in record.items()}


def short_name(name: str) -> str:
    """Return a name without its group, for a title: ``loss`` for ``train/loss``."""
    return name.rpartition("/")[2]


def is_share(name: str) -> bool:
    """Tell whether a metric is a share, from 0 to 1."""
    return name.endswith(("_accuracy", "_top1"))
