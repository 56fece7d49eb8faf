"""k nearest neighbours by cosine similarity, computed in blocks of both queries and bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.device import exact, exact_device, full_float32
from fastclr.evaluate.features import Features, check_labelled
from fastclr.evaluate.scores import Scores, tally

LOW = 2**32 - 1  # mask of the lower half of a sort key, which holds the bank row
BANK_BLOCK = 16384
VOTES = 2**24  # float64 votes that are held at a time


def nearest(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    block: int = 1024,
    bank_block: int = BANK_BLOCK,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return cosines float32 ``[Q, k]`` and bank rows int64 ``[Q, k]`` of the k nearest neighbours, nearest first.

    Neighbours of equal cosine keep the bank's order, so a tie at the k-th place goes to the smaller row.
    Besides the bank, memory holds the queries and a few blocks of cosines, float32 ``[block, bank_block]``.

    Args:
        bank: float features ``[N, F]``, N below 2^32, on any device.
        queries: float features ``[Q, F]``, on any device.
        k: number of neighbours, at most N.
        block: queries per block.
        bank_block: bank rows per block.
        device: where to compute; also holds the results. Default: that of `queries`.

    Raises:
        ValueError: shapes do not match, k is out of range, or a feature is NaN or infinite.
    """
    if bank.dim() != 2 or queries.dim() != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank and queries must be [N, F] and [Q, F], got {tuple(bank.shape)}, {tuple(queries.shape)}")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be between 1 and the {len(bank)} images of the bank, got {k}")
    bank, queries = exact(bank), exact(queries)
    where = queries.device if device is None else exact_device(torch.device(device))
    parts = [unit_rows(part, where) for part in queries.split(block)]
    best = [torch.empty(len(part), 0, dtype=torch.int64, device=where) for part in parts]
    with full_float32():
        for start in range(0, len(bank), bank_block):
            rows = unit_rows(bank[start : start + bank_block], where)  # each bank row is moved only once
            for index, part in enumerate(parts):
                merged = torch.cat([best[index], top_keys(part @ rows.T, start, k)], dim=1)
                best[index] = merged.topk(min(k, merged.shape[1]), dim=1).values
    keys = torch.cat(best)
    return key_cosines(keys), LOW - (keys & LOW)


def unit_rows(rows: Tensor, device: torch.device) -> Tensor:
    """Return rows scaled to unit length, float32 on `device`; a row of zeros stays zero."""
    rows = rows.to(device, torch.float32)
    if not bool(rows.isfinite().all()):
        raise ValueError("features must be finite, but some are NaN or infinite")
    return F.normalize(rows, dim=1)


def top_keys(cosines: Tensor, first: int, k: int) -> Tensor:
    """Return the sort keys of the k best of float32 ``[Q, n]``, or of all n if fewer; column 0 is bank row `first`."""
    rows = torch.arange(first, first + cosines.shape[1], device=cosines.device)
    if k >= cosines.shape[1]:
        return sort_keys(cosines, rows)
    values, columns = cosines.topk(k + 1, dim=1)
    keys = sort_keys(values[:, :k], first + columns[:, :k])
    # torch.topk does not specify which of several equal values it picks; where that matters, decide by the unique keys
    tied = values[:, k - 1] == values[:, k]
    if bool(tied.any()):
        keys[tied] = sort_keys(cosines[tied], rows).topk(k, dim=1).values
    return keys


def sort_keys(cosines: Tensor, rows: Tensor) -> Tensor:
    """Pack float32 cosines and int64 bank rows into int64 keys that sort by cosine, then by descending row."""
    bits = (cosines + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return ordered * 2**32 + (LOW - rows)


def key_cosines(keys: Tensor) -> Tensor:
    """Return the cosines packed into `keys`."""
    bits = (keys >> 32).int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)


def vote(cosines: Tensor, neighbours: Tensor, classes: int, temperature: float | None) -> Tensor:
    """Return votes float64 ``[Q, classes]``, each row up to a factor; -inf for a class without neighbours.

    Args:
        cosines: float ``[Q, k]``, nearest first.
        neighbours: int64 ``[Q, k]``, classes of the neighbours.
        classes: number of classes.
        temperature: votes are weighted by exp(cosine / temperature), or 1 each if None.
    """
    weights = torch.ones_like(cosines, dtype=torch.float64)
    if temperature is not None:
        weights = ((cosines - cosines[:, :1]).double() / temperature).exp()  # the nearest weighs 1: no overflow
    votes = torch.zeros(len(cosines), classes, dtype=torch.float64, device=cosines.device)
    votes.scatter_add_(1, neighbours, weights)
    voted = torch.zeros_like(votes, dtype=torch.bool).scatter_(1, neighbours, True)
    return votes.masked_fill_(~voted, -torch.inf)


def check_temperature(temperature: float | None) -> None:
    """Raise a ValueError unless `temperature` is positive or None."""
    if temperature is not None and not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a positive number, or None for an unweighted vote, got {temperature}")


def knn_predict(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    temperature: float | None = 0.1,
    block: int = 1024,
    device: torch.device | str | None = None,
) -> Tensor:
    """Predict classes from the k rows of `bank` with the highest cosine; int64 ``[Q]``.

    score(c) = sum over the k neighbours of class c of exp(cosine / temperature)   (1 each if temperature is None).
    Ties go to the smaller class; see `nearest` for equal cosines.

    Args:
        bank: float features ``[N, F]``.
        labels: int64 ``[N]``, classes from 0.
        queries: float features ``[Q, F]``.
        k: number of neighbours, at most N.
        temperature: of the similarity weights (Wu et al. 2018, section 3.4), or None for an unweighted vote.
        block: queries per block.
        device: where to compute; also holds the result. Default: that of `queries`.

    Raises:
        ValueError: shapes do not match, k or temperature is out of range, a label is negative, a feature is not finite.
    """
    check_labelled("bank", bank, labels)
    check_temperature(temperature)
    cosines, rows = nearest(bank, queries, k, block=block, device=device)
    labels = exact(labels)
    neighbours = labels.to(rows.device)[rows]
    classes = int(labels.max()) + 1
    parts = zip(cosines.split(block), neighbours.split(block), strict=True)
    predictions = [vote(near, own, classes, temperature).argmax(dim=1) for near, own in parts]
    return torch.cat(predictions)


def knn_scores(
    features: Features,
    ks: Sequence[int],
    *,
    temperature: float | None = 0.1,
    device: torch.device | str | None = None,
) -> dict[int, Scores]:
    """Return the kNN scores on the test images for every k in `ks`, from a single search; see `knn_predict`.

    Raises:
        ValueError: `ks` is empty, or for the reasons listed at `knn_predict`.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"k must be one or more numbers of at least 1, got {list(ks)}")
    check_temperature(temperature)
    cosines, rows = nearest(features.train, features.test, max(ks), device=device)
    known, wanted = exact(features.train_labels), exact(features.test_labels)
    neighbours = known.to(rows.device)[rows]
    classes = 1 + int(max(known.max(), wanted.max()))
    block = max(1, VOTES // classes)

    def votes(k: int) -> Iterator[Tensor]:
        for near, own in zip(cosines[:, :k].split(block), neighbours[:, :k].split(block), strict=True):
            yield vote(near, own, classes, temperature)

    return {k: tally(votes(k), wanted) for k in ks}


def knn_accuracy(
    features: Features,
    *,
    k: int = 20,
    temperature: float | None = 0.1,
    device: torch.device | str | None = None,
) -> float:
    """Return the fraction of test images whose kNN prediction is correct; see `knn_predict`."""
    predictions = knn_predict(
        features.train, features.train_labels, features.test, k=k, temperature=temperature, device=device
    )
    return float((predictions == features.test_labels.to(predictions.device)).double().mean())
