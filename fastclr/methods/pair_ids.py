"""Which pairs of a batch must not be negatives of each other: those with the same picture or the same caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from fastclr.data.batch import Batch
from fastclr.parallel import gather_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def pair_ids(batch: Batch, device: torch.device, group: ProcessGroup | None = None) -> Tensor | None:
    """Return a number for each pair of this process, equal where pictures or captions are, int64 ``[n]``.

    Two pairs that share nothing, but each something with a third, have one number too. It means the same on all
    processes, but not in the next step.

    Args:
        batch: of this process; its `text_ids` and `image_ids` are compared, which may be of any size.
        device: where the numbers are needed.
        group: the processes whose pairs are compared.

    Returns:
        None if the batch has neither.
    """
    columns = id_columns(batch, device)
    if columns is None:
        return None
    count = len(columns)
    every = columns if group is None else gather_rows(columns, group)
    start = 0 if group is None else distributed.get_rank(group) * count
    return joined(every)[start : start + count]


def id_columns(batch: Batch, device: torch.device) -> Tensor | None:
    """Return the ids of captions and pictures that a batch has, int64 ``[n, 1 or 2]``."""
    found = [ids.to(device) for ids in (batch.text_ids, batch.image_ids) if ids is not None]
    return torch.stack(found, dim=1) if found else None


def joined(columns: Tensor) -> Tensor:
    """Return the smallest row that each row is joined to, over rows that are equal in some column, int64 ``[m]``.

    Args:
        columns: int64 ``[m, k]``.
    """
    count = len(columns)
    classes = [column.unique(return_inverse=True)[1] for column in columns.unbind(1)]
    labels = torch.arange(count, device=columns.device)
    while True:
        before = labels
        for numbers in classes:
            least = torch.full_like(labels, count).scatter_reduce(0, numbers, labels, "amin")
            labels = least[numbers]
        if torch.equal(labels, before):
            return labels
