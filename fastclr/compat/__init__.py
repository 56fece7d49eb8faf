"""Losses with the call conventions of other libraries, one module per library, imported on first use.

A library's losses are in the module of its name, under their own names: ``fastclr.compat.open_clip.ClipLoss``. Where an
original accepts anything else than a module says, it raises. The names below are those of the first two-view adaptors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastclr.compat.google_simclr import add_contrastive_loss
    from fastclr.compat.pytorch_metric_learning import MetricLearningNTXentLoss
    from fastclr.compat.solo_learn import (
        barlow_loss_func,
        mocov2plus_loss_func,
        mocov3_loss_func,
        simclr_loss_func,
        vicreg_loss_func,
    )

__all__ = [
    "MetricLearningNTXentLoss",
    "add_contrastive_loss",
    "barlow_loss_func",
    "mocov2plus_loss_func",
    "mocov3_loss_func",
    "simclr_loss_func",
    "vicreg_loss_func",
]

_LIBRARIES = (
    "google_simclr",
    "info_nce_pytorch",
    "lightly",
    "open_clip",
    "pytorch_metric_learning",
    "sentence_transformers",
    "solo_learn",
    "supcontrast",
)
_MODULES = {
    "MetricLearningNTXentLoss": "fastclr.compat.pytorch_metric_learning",
    "add_contrastive_loss": "fastclr.compat.google_simclr",
    "barlow_loss_func": "fastclr.compat.solo_learn",
    "mocov2plus_loss_func": "fastclr.compat.solo_learn",
    "mocov3_loss_func": "fastclr.compat.solo_learn",
    "simclr_loss_func": "fastclr.compat.solo_learn",
    "vicreg_loss_func": "fastclr.compat.solo_learn",
}


def __getattr__(name: str) -> Any:
    """Import an adaptor, or the module of a library, on first use."""
    if name in _LIBRARIES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
