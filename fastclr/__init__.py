"""fastclr: contrastive and self-supervised pretraining of image encoders, made fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastclr.api import FewLabels, Run, compare, pretrain, search, survey, v2
    from fastclr.augment import AugmentConfig, AugmentParams, RaggedImages, SimCLRAugment
    from fastclr.losses import (
        BarlowTwinsLoss,
        BLIPLoss,
        CLIPLoss,
        DCLLoss,
        DebiasedNTXentLoss,
        InfoNCELoss,
        MarginTripletLoss,
        MultipleNegativesLoss,
        NTLogisticLoss,
        NTXentLoss,
        SigLIPLoss,
        SupConLoss,
        VICRegLoss,
        cached_step,
        nt_xent,
    )
    from fastclr.transfer.hub import HubEncoder

__all__ = [
    "AugmentConfig",
    "AugmentParams",
    "BLIPLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "DCLLoss",
    "DebiasedNTXentLoss",
    "FewLabels",
    "HubEncoder",
    "InfoNCELoss",
    "MarginTripletLoss",
    "MultipleNegativesLoss",
    "NTLogisticLoss",
    "NTXentLoss",
    "RaggedImages",
    "Run",
    "SigLIPLoss",
    "SimCLRAugment",
    "SupConLoss",
    "VICRegLoss",
    "cached_step",
    "compare",
    "nt_xent",
    "pretrain",
    "search",
    "survey",
    "v2",
]
__version__ = "0.1.0"

# loaded at first use (PEP 562), because torch takes seconds to import and `fastclr --help` needs none of it
_PLACES = {
    "fastclr.api": ("FewLabels", "Run", "compare", "pretrain", "search", "survey", "v2"),
    "fastclr.augment": ("AugmentConfig", "AugmentParams", "RaggedImages", "SimCLRAugment"),
    "fastclr.transfer.hub": ("HubEncoder",),
}
_PACKAGES = dict.fromkeys(__all__, "fastclr.losses") | {
    name: place for place, names in _PLACES.items() for name in names
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PACKAGES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names that are loaded already and those that can be."""
    return sorted({*globals(), *__all__})
