"""fastclr: contrastive and self-supervised pretraining of image encoders, made fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__all__ = [
    "AugmentConfig",
    "AugmentParams",
    "BLIPLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "DCLLoss",
    "DebiasedNTXentLoss",
    "InfoNCELoss",
    "MarginTripletLoss",
    "MultipleNegativesLoss",
    "NTLogisticLoss",
    "NTXentLoss",
    "RaggedImages",
    "SigLIPLoss",
    "SimCLRAugment",
    "SupConLoss",
    "VICRegLoss",
    "cached_step",
    "nt_xent",
]
__version__ = "0.1.0"

# loaded at first use (PEP 562), because torch takes seconds to import and `fastclr --help` needs none of it
_VIEWS = ("AugmentConfig", "AugmentParams", "RaggedImages", "SimCLRAugment")
_PACKAGES = {name: "fastclr.augment" if name in _VIEWS else "fastclr.losses" for name in __all__}


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
