"""Numbers for the content of images and texts, so that a loss can tell copies from negatives."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.order import UINT64_MAX, raw_bits

# Philox stream of the factors; what it is does not matter, but all processes must have the same
STREAM = UINT64_MAX - 4
AT_A_TIME = 2**22  # words, of which a copy in int64 is made


def text_ids(texts: Tensor) -> Tensor:
    """Return int64 ``[N]``, equal where rows of int64 tokens ``[N, L]`` are equal, on their device.

        id_i = sum_j w_j x_ij  mod 2^64      x_ij in [0, 2^32), w_j random 64-bit numbers, the same everywhere

    This is multilinear hashing: over the choice of w, two different rows agree with a probability of at most 2^-33. Of
    larger tokens the lower 32 bits count. Sums of integers have no order, so every device gives the same ids.
    """
    return hashed(texts)


def image_ids(images: Tensor | RaggedImages) -> Tensor:
    """Return int64 ``[N]``, equal where two images have the same size and pixels, on their device.

    An image is hashed as in `text_ids`, as its height, its width, and its pixels in words of four bytes, the last one
    filled up with zeros.
    """
    if isinstance(images, Tensor):
        height, width = images.shape[1:3]
        return hashed(words(images.flatten(1)), 2) + hashed(torch.tensor([[height, width]])).item()
    rows = [hashed(words(images.image(row).reshape(1, -1)), 2) for row in range(len(images))]
    return torch.cat(rows) + hashed(images.sizes) if rows else images.offsets.new_zeros(0)


def words(octets: Tensor) -> Tensor:
    """Return uint8 ``[N, B]`` as int32 ``[N, ceil(B / 4)]``."""
    if octets.shape[1] % 4:
        octets = torch.nn.functional.pad(octets, (0, -octets.shape[1] % 4))
    # a view of another dtype needs rows that begin at multiples of 4 bytes
    aligned = octets.is_contiguous() and octets.storage_offset() % 4 == 0
    return (octets if aligned else octets.clone(memory_format=torch.contiguous_format)).view(torch.int32)


def hashed(rows: Tensor, first: int = 0) -> Tensor:
    """Return the sum of `text_ids` for integer rows ``[N, L]``, with the factors from number ``first`` on."""
    weights = factors(first + rows.shape[1])[first:].to(rows.device)
    step = max(AT_A_TIME // max(rows.shape[1], 1), 1)
    return torch.cat([(part.long().bitwise_and(0xFFFFFFFF) * weights).sum(1) for part in rows.split(step)])


def factors(count: int) -> Tensor:
    """Return the first random factors, int64 ``[count]``."""
    return table(1 << max(count - 1, 2**10).bit_length())[:count]


@lru_cache(maxsize=32)
def table(count: int) -> Tensor:
    """Return ``count`` random factors."""
    return torch.from_numpy(raw_bits(count, 0, STREAM).view("int64"))
