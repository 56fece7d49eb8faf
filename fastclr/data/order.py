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


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return sorted int64 row indices of a random ``fraction`` of every class.

    A class of ``n`` images gives ``round(fraction * n)`` of them, at least one and at most ``n - 1`` where ``n > 1``;
    a class with a single image gives none. Images of unknown class (-1) are never taken.

    Args:
        labels: int64 ``[N]``.
        fraction: between 0 and 1, both excluded.
        seed: decides which images.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    order = permutation(len(labels), seed, UINT64_MAX)
    shuffled = labels[order]
    taken = []
    for label in labels.unique().tolist():
        members = order[shuffled == label]
        if label >= 0 and len(members) > 1:
            taken.append(members[: min(max(round(fraction * len(members)), 1), len(members) - 1)])
    return torch.cat(taken).sort().values if taken else torch.empty(0, dtype=torch.int64)
