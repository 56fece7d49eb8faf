"""Scores of predictions: top-1, top-5, per-class accuracy and the confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP5_FROM = 6  # classes: with fewer, five guesses are always or nearly always right
CONFUSION_UP_TO = 100  # classes, hence 10,000 numbers in a JSON file


@dataclass(frozen=True)
class Scores:
    """Accuracies on test images, as fractions from 0 to 1.

    Args:
        top1: fraction of images whose own class scores highest; a tie goes to the smaller class.
        top5: fraction of images whose class is among the five highest scores, or None with fewer than 6 classes.
        per_class: top-1 accuracy of each class, None for a class without test images.
        confusion: ``confusion[true][predicted]`` counts images, or None with more than 100 classes.
    """

    top1: float
    top5: float | None
    per_class: list[float | None]
    confusion: list[list[int]] | None

    def as_json(self) -> dict[str, Any]:
        """Return the scores as stored in ``results.json``."""
        return {
            "accuracy": self.top1,
            "top5": self.top5,
            "per_class": self.per_class,
            "confusion": self.confusion,
        }


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return, for each row, how many classes precede its label in descending order of score; int64 ``[N]``.

    Equal scores are ordered by class. A score of -inf, or a label without a column, ranks last.

    Args:
        scores: float ``[N, C]``.
        labels: int64 ``[N]``, at least 0, on the same device.
    """
    classes = scores.shape[1]
    own = scores.gather(1, labels.clamp_max(classes - 1)[:, None])
    before = torch.arange(classes, device=scores.device) < labels[:, None]
    ranks = ((scores > own) | ((scores == own) & before)).sum(dim=1)
    return ranks.where((labels < classes) & (own[:, 0] > -torch.inf), classes)


def confusion_counts(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count images by true class (rows) and the class that scores highest (columns).

    Args:
        scores: float ``[N, C]``.
        labels: int64 ``[N]``, at least 0.
        classes: size of the matrix, at least C and above every label.

    Returns:
        int64 ``[classes, classes]`` on the CPU.
    """
    return count_pairs(labels.to(scores.device), scores.argmax(dim=1), classes).cpu()


def count_pairs(true: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count images by true class (rows) and predicted class, both int64 ``[N]``; int64 ``[classes, classes]``."""
    return torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes)


def score(scores: Tensor, labels: Tensor) -> Scores:
    """Compare class scores with the true classes.

    Args:
        scores: float ``[N, C]``, higher is more likely; -inf for a class that was not considered.
        labels: int64 ``[N]``, at least 0.

    Raises:
        ValueError: there are no rows, or the shapes do not match.
    """
    if scores.dim() != 2 or len(scores) == 0 or labels.shape != (len(scores),):
        raise ValueError(f"scores and labels must be [N, C], [N], got {tuple(scores.shape)}, {tuple(labels.shape)}")
    return tally([scores], labels)


def tally(blocks: Iterable[Tensor], labels: Tensor) -> Scores:
    """Compare class scores, in blocks of rows, with the true classes; memory holds one block of them at a time.

    Args:
        blocks: float ``[n, C]``, together ``[N, C]``, as in `score`.
        labels: int64 ``[N]``, at least 0.
    """
    ranks, told, columns = [], [], 0
    start = 0
    for scores in blocks:
        own = labels[start : start + len(scores)].to(scores.device)
        ranks.append(label_ranks(scores, own).cpu())
        told.append(scores.argmax(dim=1).cpu())
        start, columns = start + len(scores), scores.shape[1]
    place, predicted, true = torch.cat(ranks), torch.cat(told), labels.cpu()
    classes = max(columns, int(true.max()) + 1)
    totals, right = (torch.bincount(each, minlength=classes).tolist() for each in (true, true[predicted == true]))
    return Scores(
        top1=int((place == 0).sum()) / len(place),
        top5=int((place < 5).sum()) / len(place) if classes >= TOP5_FROM else None,
        per_class=[hit / total if total else None for hit, total in zip(right, totals, strict=True)],
        confusion=count_pairs(true, predicted, classes).tolist() if classes <= CONFUSION_UP_TO else None,
    )
