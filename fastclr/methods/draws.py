"""Random numbers for a method's forward, which sees views but neither seed nor step."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 0xFFFFFFFF


def uniforms(images: Tensor, count: int) -> Tensor:
    """Return ``[n, count]`` numbers in [0, 1), float32, that are a function of the pixels of each image alone.

    A view is a function of seed, epoch, image and view; so are these numbers, on any number of processes and in any
    micro-batch. They are exact in integers: hashes of the sum of the pixels, rounded to 2^-16, and of the column.

    Args:
        images: ``[n, 3, S, S]``, of any floating dtype and on any device.
        count: numbers per image.
    """
    key = (images.detach().float() * 65536).round().long().flatten(1).sum(dim=1)
    column = torch.arange(1, count + 1, device=images.device)
    bits = _mixed(_mixed(key & _BITS)[:, None] ^ _mixed(column))
    return (bits >> 8).float() / 2**24


def _mixed(x: Tensor) -> Tensor:
    """Return a hash of 32-bit numbers held in int64: two rounds of xor-shift and multiplication."""
    for factor in (0x21F0AAAD, 0x735A2D97):  # below 2^31, so that no product leaves int64
        x = ((x ^ (x >> 16)) * factor) & _BITS
    return x ^ (x >> 15)
