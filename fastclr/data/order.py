"""Random order that is the same on every machine and with every version of NumPy and PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UINT64_MAX = 2**64 - 1


def raw_bits(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    """Return ``count`` uint64 words of Philox4x64-10 with the key ``(seed, stream)``.

    The raw words of a NumPy bit generator are fixed for good; the distributions built on them are not.

    Raises:
        ValueError: ``seed`` or ``stream`` is outside ``0 .. 2**64 - 1``.
    """
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= value <= UINT64_MAX:
            raise ValueError(f"{name} must be in 0 .. 2**64 - 1, got {value}")
    key = np.array([seed, stream], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key).random_raw(count), dtype=np.uint64)


def permutation(count: int, seed: int, stream: int) -> Tensor:
    """Return a random order of ``0 .. count - 1`` as int64 ``[count]``, a function of its arguments only.

    Raises:
        ValueError: ``seed`` or ``stream`` is outside ``0 .. 2**64 - 1``.
    """
    return torch.from_numpy(np.argsort(raw_bits(count, seed, stream), kind="stable").astype(np.int64))
