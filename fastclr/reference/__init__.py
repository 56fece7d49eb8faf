"""The specification of fastclr in readable PyTorch: what every faster path is tested against."""

from __future__ import annotations

from fastclr.reference.loss import nt_xent

__all__ = ["nt_xent"]
