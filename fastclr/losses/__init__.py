"""Contrastive losses, one file each, over one tile machinery: function, operator, CPU blocks, specification."""

from fastclr.losses.cached_step import cached_step
from fastclr.losses.memory_bank import MemoryBank
from fastclr.losses.nt_xent import NTXentLoss, NTXentStats, nt_xent

__all__ = ["MemoryBank", "NTXentLoss", "NTXentStats", "cached_step", "nt_xent"]
