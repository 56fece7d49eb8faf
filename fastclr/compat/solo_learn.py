"""Losses with the call conventions of solo-learn."""

from __future__ import annotations

from torch import Tensor, distributed

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import nt_xent
from fastclr.losses.gram import barlow_twins, vicreg
from fastclr.losses.row_dots import share_gradient


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
    return nt_xent(z[first], z[second], temperature, group=distributed.group.WORLD if _running() else None)


def barlow_loss_func(
    z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025, *, original_ranks: bool = False
) -> Tensor:
    """``solo.losses.barlow.barlow_loss_func``: Barlow Twins times `scale_loss`.

    Like the original, this takes the rows of all ranks whenever torch.distributed is initialised. The original then
    standardises by the local rows, and its gradient is 1/W of that of W ranks, because its all-reduce has none.

    Args:
        z1: ``[N, D]``, first view.
        z2: ``[N, D]``, second view.
        lamb: weight of the redundancy.
        scale_loss: factor of the loss.
        original_ranks: reproduce both, the local statistics and the factor 1/W.

    Returns:
        0-dim tensor.

    Raises:
        TypeError, ValueError: as :class:`fastclr.BarlowTwinsLoss`.
    """
    group = distributed.group.WORLD if _running() else None
    loss, _ = barlow_twins(z1, z2, lamb, group=group, local_statistics=original_ranks)
    if original_ranks and group is not None:
        loss = share_gradient(loss, 1 / distributed.get_world_size())
    return scale_loss * loss


def vicreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 1.0,
) -> Tensor:
    """``solo.losses.vicreg.vicreg_loss_func``: VICReg with the variance term of both views added, not averaged.

    Like the original, this takes the rows of all ranks whenever torch.distributed is initialised.

    Args:
        z1: ``[N, D]``, first view.
        z2: ``[N, D]``, second view.
        sim_loss_weight: weight of the invariance.
        var_loss_weight: weight of the variance; twice as much in :class:`fastclr.VICRegLoss`.
        cov_loss_weight: weight of the covariance.

    Returns:
        0-dim tensor; with several ranks the invariance is that of the local rows.

    Raises:
        TypeError, ValueError: as :class:`fastclr.VICRegLoss`.
    """
    group = distributed.group.WORLD if _running() else None
    return vicreg(z1, z2, sim_loss_weight, 2 * var_loss_weight, cov_loss_weight, group=group)[0]


def _running() -> bool:
    return distributed.is_available() and distributed.is_initialized()
