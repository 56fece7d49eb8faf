"""Random views of a batch, and the deterministic view that evaluation uses."""

from fastclr.augment.config import AugmentConfig, AugmentParams
from fastclr.augment.images import RaggedImages
from fastclr.augment.simclr import SimCLRAugment

__all__ = ["AugmentConfig", "AugmentParams", "RaggedImages", "SimCLRAugment"]
