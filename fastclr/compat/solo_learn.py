"""NT-Xent with the call conventions of solo-learn."""

from __future__ import annotations

from torch import Tensor, distributed

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """``solo.losses.simclr.simclr_loss_func`` for two views, ``-mean_i log(pos_i / (pos_i + neg_i))``.

    With more than two views the original sums the positives inside the logarithm, which is a different loss. Like the
    original, this gathers over all ranks whenever torch.distributed is initialised; unlike its unshifted exp, this does
    not overflow in float16.

    Args:
        z: ``[2N, D]`` floating-point, in any order.
        indexes: ``[2N]`` integers, each sample exactly twice. Ranks are assumed to hold different samples.
        temperature: tau.

    Returns:
        0-dim tensor.

    Raises:
        TypeError: indexes are not an integer tensor.
        ValueError: a sample does not occur exactly twice.
    """
    first, second = pair_rows(indexes, len(z))
    running = distributed.is_available() and distributed.is_initialized()
    return nt_xent(z[first], z[second], temperature, group=distributed.group.WORLD if running else None)
