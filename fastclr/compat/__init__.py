"""Losses with the call conventions of other libraries, one module per library, imported on first use.

Names that several libraries use are in their modules only: ``from fastclr.compat.lightly import BarlowTwinsLoss``,
``from fastclr.compat.open_clip import SigLipLoss``, ``from fastclr.compat.pytorch_metric_learning import NTXentLoss``.
:class:`fastclr.NTXentLoss` itself follows lightly's conventions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastclr.compat.google_simclr import add_contrastive_loss
    from fastclr.compat.pytorch_metric_learning import MetricLearningNTXentLoss
    from fastclr.compat.solo_learn import barlow_loss_func, simclr_loss_func, vicreg_loss_func

__all__ = [
    "MetricLearningNTXentLoss",
    "add_contrastive_loss",
    "barlow_loss_func",
    "simclr_loss_func",
    "vicreg_loss_func",
]

_MODULES = {
    "MetricLearningNTXentLoss": "fastclr.compat.pytorch_metric_learning",
    "add_contrastive_loss": "fastclr.compat.google_simclr",
    "barlow_loss_func": "fastclr.compat.solo_learn",
    "simclr_loss_func": "fastclr.compat.solo_learn",
    "vicreg_loss_func": "fastclr.compat.solo_learn",
}


def __getattr__(name: str) -> Any:
    """Import an adaptor on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
