"""Losses with the call conventions of solo-learn."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, distributed

from fastclr.compat.view_pairs import pair_rows
from fastclr.losses import InfoNCELoss, nt_xent
from fastclr.losses.gram import barlow_twins, vicreg
from fastclr.losses.row_dots import own_first, share_gradient
from fastclr.losses.row_inputs import check_ids, check_same_rows, softplus
from fastclr.losses.row_loss import RowLoss


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """``solo.losses.simclr.simclr_loss_func``, ``-mean_i log(pos_i / (pos_i + neg_i))`` with sums of exponentials.

    For two views this is NT-Xent; with more views or with labels it is SupCon's L_in without its ``1 / |P|``. Like the
    original, this gathers over all ranks whenever torch.distributed is initialised; unlike its unshifted exp, this does
    not overflow in float16. The value is that of the local rows.

    Args:
        z: ``[M, D]`` floating-point, in any order.
        indexes: ``[M]`` integers, samples of the data set or labels, each at least twice over all ranks: as in the
            original, equal ones on two ranks are positives of each other. Checking that synchronises with the device.
        temperature: tau.

    Returns:
        0-dim tensor.

    Raises:
        TypeError: indexes are not an integer tensor.
        ValueError: a sample occurs once: it has no positive, and the original's loss is infinite.
    """
    check_ids("indexes", indexes, z, len(z))
    comparison = RowLoss(temperature, _running()).compare({"z": z})
    every = comparison.every(indexes.long())
    _, counts = every.unique(return_counts=True)
    if int(counts.min()) < 2:
        raise ValueError("every index must occur at least twice, got one that occurs once")
    # on every rank the same answer, or some would wait for others
    shares = every.view(-1, len(z)).sort(dim=1).values
    if int(counts.max()) == 2 and len(z) % 2 == 0 and bool((shares[:, 0::2] == shares[:, 1::2]).all()):
        first, second = pair_rows(indexes, len(z))
        return nt_xent(z[first], z[second], temperature, group=comparison.options.group)
    with torch.autocast(z.device.type, enabled=False):
        rows = comparison.rows(z)
        everything = comparison.lse(rows, exclude="self")
        return comparison.reduce(everything - comparison.lse(rows, exclude="other", ids=(indexes.long(), None)))


def mocov2plus_loss_func(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> Tensor:
    """``solo.losses.mocov2plus.mocov2plus_loss_func``: InfoNCE against a queue, rows as they come.

    Args:
        query: ``[N, D]``.
        key: ``[N, D]``, of the momentum encoder.
        queue: ``[D, K]``, a key a column.
        temperature: tau.

    Returns:
        0-dim tensor.

    Raises:
        TypeError, ValueError: as :class:`fastclr.InfoNCELoss`.
    """
    loss: Tensor = InfoNCELoss(temperature, normalize=False)(query, key, queue.T)
    return loss


def mocov3_loss_func(query: Tensor, key: Tensor, temperature: float = 0.2) -> Tensor:
    """``solo.losses.mocov3.mocov3_loss_func``: queries against the keys of all ranks, times ``2 tau``.

    Like the original, this takes the keys of all ranks, without gradient, whenever torch.distributed is initialised.

    Args:
        query: ``[N, D]``.
        key: ``[N, D]``, of the momentum encoder.
        temperature: tau.

    Returns:
        0-dim tensor, the mean of the local rows.

    Raises:
        TypeError, ValueError: as :class:`fastclr.InfoNCELoss`.
    """
    if not _running():
        loss: Tensor = InfoNCELoss(temperature)(query, key)
        return 2 * temperature * loss
    inputs = {"query": query, "key": key}
    check_same_rows(inputs)
    comparison = RowLoss(temperature, gather_distributed=True).compare(inputs)
    group = comparison.options.group
    # the rows of a rank need nothing from the others but their keys
    comparison = replace(comparison, options=comparison.options._replace(group=None))
    with torch.autocast(query.device.type, enabled=False):
        q, keys = comparison.rows(query), own_first(comparison.rows(key.detach()), group)
        others = comparison.lse(q, keys, "self")
        own = comparison.dots(q, keys[: len(q)]) * comparison.scale
        return 2 * temperature * comparison.reduce(softplus(others - own))


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
