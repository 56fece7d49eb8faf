"""fastclr: the fast way to do SimCLR."""

from __future__ import annotations

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.cached import cached_step
from fastclr.images import RaggedImages
from fastclr.losses import NTXentLoss, nt_xent

__all__ = ["AugmentConfig", "AugmentParams", "NTXentLoss", "RaggedImages", "SimCLRAugment", "cached_step", "nt_xent"]
__version__ = "0.1.0"
