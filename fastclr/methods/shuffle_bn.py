"""Shuffling for batch norm: keys are normalised beside other images than their queries, which leaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def in_parts(network: Callable[[Tensor], Tensor], images: Tensor, parts: int) -> Tensor:
    """Return ``network(images)``, computed in `parts` equal parts, each of which batch norm sees alone."""
    if parts == 1:
        return network(images)
    if len(images) % parts:
        raise ValueError(f"the images of a process must be a multiple of the {parts} bn_splits, got {len(images)}")
    return torch.cat([network(part) for part in images.chunk(parts)])


@torch.no_grad()
def shuffled(
    network: Callable[[Tensor], Tensor], images: Tensor, parts: int, group: ProcessGroup | None = None
) -> Tensor:
    """Return ``network(images)`` without gradient, batch norm seeing the images in another order.

    Args:
        network: from images ``[n, 3, S, S]`` to keys ``[n, D]``.
        images: of this process.
        parts: how many parts batch norm sees separately.
        group: exchange the images of these processes; each must have the same number. The order is that of the first
            process's generator.
    """
    count = len(images)
    every = images if group is None else gather_rows(images, group)
    order = torch.randperm(len(every)).to(images.device)
    start = 0
    if group is not None:
        distributed.broadcast(order, distributed.get_global_rank(group, 0), group=group)
        start = distributed.get_rank(group) * count
    keys = in_parts(network, every[order[start : start + count]], parts)
    found = keys if group is None else gather_rows(keys, group)
    restored = torch.empty_like(found)
    restored[order] = found
    return restored[start : start + count]


def check_parts(parts: int, images: int, micro_batch: int | None) -> None:
    """Raise a ValueError unless what a process shows at once, `images` or micro-batches of them, has so many parts."""
    if images % parts:
        raise ValueError(f"bn_splits must divide the {images} images of a process, got {parts}")
    if micro_batch is not None and micro_batch < images:
        sizes = sorted({micro_batch, images % micro_batch} - {0}, reverse=True)
        if any(size % parts for size in sizes):
            listed = " and ".join(map(str, sizes))
            raise ValueError(f"bn_splits must divide the images of every micro-batch, {listed}, got {parts}")
