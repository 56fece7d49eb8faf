"""Contrastive losses, one file each, on shared tile machinery.

From a public call to its kernel: :class:`NTXentLoss` or :func:`nt_xent` (nt_xent.py), then ``NTXentFunction`` and the
operator ``ntxent_fwd`` (contrast_op.py), then the function of that name in ``fastclr.kernels`` (Triton) or in
contrast_blocks.py (plain PyTorch). contrast_reference.py is the specification that both are tested against.

The other losses that compare rows are a few lines each on row_loss.py and the operator ``lse`` (lse_op.py), which has
its own functions in ``fastclr.kernels``, lse_blocks.py and lse_reference.py. On a CPU, CLIP and the rankings of one
process go through paired_op.py instead, with fewer copies and, where a row's loss needs no other row, one pass.

The Gram losses :class:`BarlowTwinsLoss` and :class:`VICRegLoss` (gram.py) go the same way through gram_op.py to
gram_blocks.py, with gram_reference.py as their specification. Losses of single pairs (siglip.py, simclr_rivals.py) are
a few lines each on pair_loss.py and the operator ``softplus_pairs`` (softplus_op.py, softplus_blocks.py,
softplus_reference.py).
"""

from fastclr.losses.blip import BLIPLoss
from fastclr.losses.cached_step import cached_step
from fastclr.losses.clip import CLIPLoss
from fastclr.losses.dcl import DCLLoss
from fastclr.losses.debiased import DebiasedNTXentLoss
from fastclr.losses.gram import BarlowTwinsLoss, VICRegLoss
from fastclr.losses.info_nce import InfoNCELoss
from fastclr.losses.memory_bank import MemoryBank
from fastclr.losses.multiple_negatives import MultipleNegativesLoss
from fastclr.losses.nt_xent import NTXentLoss, NTXentStats, nt_xent
from fastclr.losses.siglip import SigLIPLoss
from fastclr.losses.simclr_rivals import MarginTripletLoss, NTLogisticLoss
from fastclr.losses.sup_con import SupConLoss

__all__ = [
    "BLIPLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "DCLLoss",
    "DebiasedNTXentLoss",
    "InfoNCELoss",
    "MarginTripletLoss",
    "MemoryBank",
    "MultipleNegativesLoss",
    "NTLogisticLoss",
    "NTXentLoss",
    "NTXentStats",
    "SigLIPLoss",
    "SupConLoss",
    "VICRegLoss",
    "cached_step",
    "nt_xent",
]
