"""Contrastive losses, one file each, on shared tile machinery.

From a public call to its kernel: :class:`NTXentLoss` or :func:`nt_xent` (nt_xent.py), then ``NTXentFunction`` and the
operator ``ntxent_fwd`` (contrast_op.py), then the function of that name in ``fastclr.kernels`` (Triton) or in
contrast_blocks.py (plain PyTorch). contrast_reference.py is the specification that both are tested against.

The Gram losses :class:`BarlowTwinsLoss` and :class:`VICRegLoss` (gram.py) go the same way through gram_op.py to
gram_blocks.py, with gram_reference.py as their specification. Losses of single pairs (siglip.py, simclr_rivals.py) are
a few lines each on pair_loss.py and the operator ``softplus_pairs`` (softplus_op.py, softplus_blocks.py,
softplus_reference.py).
"""

from fastclr.losses.cached_step import cached_step
from fastclr.losses.gram import BarlowTwinsLoss, VICRegLoss
from fastclr.losses.memory_bank import MemoryBank
from fastclr.losses.nt_xent import NTXentLoss, NTXentStats, nt_xent
from fastclr.losses.siglip import SigLIPLoss
from fastclr.losses.simclr_rivals import MarginTripletLoss, NTLogisticLoss

__all__ = [
    "BarlowTwinsLoss",
    "MarginTripletLoss",
    "MemoryBank",
    "NTLogisticLoss",
    "NTXentLoss",
    "NTXentStats",
    "SigLIPLoss",
    "VICRegLoss",
    "cached_step",
    "nt_xent",
]
