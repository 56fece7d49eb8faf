"""Retrieval between images and texts: the rank of the first right answer, in blocks of queries and items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastclr.device import full_float32
from fastclr.evaluate.knn import unit_rows

BLOCK, ITEM_BLOCK = 1024, 16384


@dataclass(frozen=True)
class Retrieval:
    """How well one side finds the other.

    Args:
        recall: by k: share of the queries with a right item among the k nearest.
        median_rank: median over the queries of the place of the first right item, from 1.
        chance: by k: the recall of a random order of the items.
        queries: their number.
        items: their number.
    """

    recall: dict[int, float]
    median_rank: float
    chance: dict[int, float]
    queries: int
    items: int

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as stored in ``results.json``."""
        return {
            **{f"recall_at_{k}": value for k, value in self.recall.items()},
            **{f"chance_at_{k}": value for k, value in self.chance.items()},
            "median_rank": self.median_rank,
            "queries": self.queries,
            "items": self.items,
        }


def retrieve(
    images: Tensor,
    texts: Tensor,
    owners: Tensor,
    *,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    ks: Sequence[int] = (1, 5, 10),
    block: int = BLOCK,
    item_block: int = ITEM_BLOCK,
    device: torch.device | str | None = None,
) -> tuple[Retrieval, Retrieval]:
    """Score the search for texts by images and for images by texts, by cosine.

        rank = 1 + the number of wrong items that are at least as similar as the most similar right one
        recall at k = share of the queries of rank k or less

    Text j is right for image i if it, or an equal text, is a caption of i or of an equal image; equal captions all
    count. A tie with a wrong item counts against the query: embeddings that are all alike find nothing. Besides the
    embeddings, memory holds one block of cosines and a mask, float32 and bool ``[block, item_block]``.

    Args:
        images: embeddings, float ``[N, D]``; they need not be of unit length.
        texts: likewise, float ``[M, D]``.
        owners: the image of each text, int64 ``[M]``.
        image_ids: int64 ``[N]``, equal for equal images; None: all differ.
        text_ids: int64 ``[M]``, equal for equal texts; None: all differ.
        ks: numbers of items looked at.
        block: queries at a time.
        item_block: items at a time.
        device: where to compute. Default: that of ``images``.

    Returns:
        Images that look for texts, and texts that look for images.

    Raises:
        ValueError: shapes do not match, a number is out of range, an image has no text, or an embedding is not finite.
    """
    check(images, texts, owners, image_ids, text_ids, ks)
    where = images.device if device is None else torch.device(device)
    owners = owners.to(where)
    _, image_groups = numbered(image_ids, len(images), where)
    _, text_groups = numbered(text_ids, len(texts), where)
    pairs = torch.stack([image_groups[owners], text_groups], dim=1).unique(dim=0)
    sides = [(images, image_groups, pairs), (texts, text_groups, pairs.flip(1))]
    found = []
    for (queries, query_groups, related), (items, item_groups, _) in (sides, sides[::-1]):
        ranks, right = first_ranks(
            queries, items, query_groups, item_groups, related, block=block, item_block=item_block
        )
        found.append(summarise(ranks, right, len(items), ks))
    return found[0], found[1]


def check(
    images: Tensor,
    texts: Tensor,
    owners: Tensor,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
    ks: Sequence[int],
) -> None:
    """Raise a ValueError unless the arguments of `retrieve` fit together."""
    if images.dim() != 2 or texts.dim() != 2 or images.shape[1] != texts.shape[1] or not len(images):
        raise ValueError(f"images and texts must be [N, D], [M, D], got {tuple(images.shape)}, {tuple(texts.shape)}")
    for name, tensor, count in (
        ("owners", owners, len(texts)),
        ("image_ids", image_ids, len(images)),
        ("text_ids", text_ids, len(texts)),
    ):
        if tensor is not None and (tensor.dtype != torch.int64 or tensor.shape != (count,)):
            raise ValueError(f"{name} must be int64 [{count}], got {tensor.dtype} {list(tensor.shape)}")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be one or more numbers of at least 1, got {list(ks)}")
    without = torch.ones(len(images), dtype=torch.bool)
    if len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < len(images):
        raise ValueError(f"owners must be in 0 .. {len(images) - 1}, got {int(owners.min())} .. {int(owners.max())}")
    without[owners.cpu()] = False
    if bool(without.any()):
        raise ValueError(f"every image must have a text, and image {int(without.nonzero()[0])} has none")


def numbered(ids: Tensor | None, count: int, device: torch.device) -> tuple[int, Tensor]:
    """Return the number of groups of equal ids, and the group of each, int64 ``[count]`` on ``device``."""
    if ids is None:
        return count, torch.arange(count, device=device)
    found, groups = ids.to(device).unique(return_inverse=True)
    return len(found), groups


def first_ranks(
    queries: Tensor,
    items: Tensor,
    query_groups: Tensor,
    item_groups: Tensor,
    related: Tensor,
    *,
    block: int,
    item_block: int,
) -> tuple[Tensor, Tensor]:
    """Return, for each query, the place of its first right item and the number of right ones, int64 ``[Q]``, from 1.

    Args:
        queries: float ``[Q, D]``.
        items: float ``[M, D]``.
        query_groups: int64 ``[Q]``, from 0.
        item_groups: int64 ``[M]``, from 0.
        related: int64 ``[P, 2]``, the pairs of a group of queries and a group of items that are right.
        block: queries at a time.
        item_block: items at a time.
    """
    device = query_groups.device
    wrong_before, right = (torch.zeros(len(queries), dtype=torch.int64, device=device) for _ in range(2))
    with full_float32():
        for rows in torch.arange(len(queries), device=device).split(block):
            own = unit_rows(queries[rows.to(queries.device)], device)
            mine = related[torch.isin(related[:, 0], query_groups[rows])]
            best = torch.full((len(rows),), -torch.inf, device=device)
            # twice, because only then is it known what the others are compared with; both times give the same bits
            for counting in (False, True):
                for start in range(0, len(items), item_block):
                    part = slice(start, start + item_block)
                    cosines = own @ unit_rows(items[part], device).T
                    good = is_related(query_groups[rows], item_groups[part], mine)
                    if counting:
                        wrong_before[rows] += ((cosines >= best[:, None]) & ~good).sum(dim=1)
                        right[rows] += good.sum(dim=1)
                    else:
                        best = torch.maximum(best, cosines.masked_fill(~good, -torch.inf).amax(dim=1))
    return wrong_before + 1, right


def is_related(rows: Tensor, columns: Tensor, pairs: Tensor) -> Tensor:
    """Return which pairs of groups, int64 ``[R]`` and ``[C]``, are among ``pairs``; bool ``[R, C]``."""
    row_groups, row_places = rows.unique(return_inverse=True)
    column_groups, column_places = columns.unique(return_inverse=True)
    kept = pairs[torch.isin(pairs[:, 1], column_groups) & torch.isin(pairs[:, 0], row_groups)]
    left, right = (side.contiguous() for side in kept.unbind(dim=1))
    table = torch.zeros(len(row_groups), len(column_groups), dtype=torch.bool, device=rows.device)
    table[torch.searchsorted(row_groups, left), torch.searchsorted(column_groups, right)] = True
    return table[row_places][:, column_places]


def summarise(ranks: Tensor, right: Tensor, items: int, ks: Sequence[int]) -> Retrieval:
    """Return recall, median and chance for ranks and numbers of right items, int64 ``[Q]``."""
    return Retrieval(
        recall={k: float((ranks <= k).double().mean()) for k in ks},
        median_rank=float(ranks.double().quantile(0.5)),
        chance={k: float(1 - missed(items, right, min(k, items)).mean()) for k in ks},
        queries=len(ranks),
        items=items,
    )


def missed(items: int, right: Tensor, k: int) -> Tensor:
    """Return the probability that k of ``items`` items at random hold none of the right ones; float64 ``[Q]``."""
    wrong = items - right.double()
    drawn = torch.arange(k, dtype=torch.float64, device=right.device)
    return ((wrong[:, None] - drawn).clamp_min(0) / (items - drawn)).prod(dim=1)
