"""Which training images keep their label, and which are held out: shares of every class, or lists of files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from fastclr.data.decoded_set import ImageDataset
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.order import UINT64_MAX, permutation


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return sorted int64 row indices of a random ``fraction`` of every class.

    Of a class of ``n > 1`` images, ``round(fraction * n)`` are taken, at least one and at most ``n - 1``; of a class
    with a single image, none. Images of unknown class (-1) are never taken.

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


def strata(labels: Tensor) -> Tensor:
    """Return the labels, or one class of all images, int64 ``[N]``, where none is known."""
    return labels if bool((labels >= 0).any()) else torch.zeros_like(labels)


STREAM = UINT64_MAX - 3  # Philox stream; those above it hold out test images and draw `shapes`
SHOWN = 5


def label_subset(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return sorted int64 row indices of a random ``share`` of every class.

    Of a class of n images, ``max(1, round(share n))`` are taken. For a given seed, a smaller share is part of a larger
    one.
    Images of unknown class (-1) are never taken.

    Args:
        labels: int64 ``[N]``.
        share: above 0, at most 1.
        seed: decides which images.

    Raises:
        ValueError: ``share`` is out of range, or no label is known.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    order = permutation(len(labels), seed, STREAM)
    shuffled = labels[order]
    taken = []
    for label in labels.unique().tolist():
        members = order[shuffled == label]
        if label >= 0:
            taken.append(members[: max(1, round(share * len(members)))])
    if not taken:
        raise ValueError(f"labels must be known for some images, but all {len(labels)} are -1")
    return torch.cat(taken).sort().values


def listed_rows(dataset: ImageDataset | ImageIndex, path: Path) -> Tensor:
    """Return sorted int64 row indices of the images that a text file names, one per line.

    A line is a name of the data set, or its last part, as in ImageNet's published ``1percent.txt`` and
    ``10percent.txt`` (google-research/simclr, ``imagenet_subsets``). Empty lines and repeated names are ignored.

    Raises:
        ValueError: a name is unknown, fits several images or one of unknown class, or there are no names.
    """
    names = list(dict.fromkeys(line.strip() for line in path.read_text().splitlines() if line.strip()))
    if not names:
        raise ValueError(f"{path} names no image")
    last = [PurePosixPath(name).name for name in dataset.names]
    shared = {name for name, count in Counter(last).items() if count > 1}
    rows = dict(zip(last, range(len(last)), strict=True)) | {name: row for row, name in enumerate(dataset.names)}
    exact = set(dataset.names)
    refuse(path, "are not among the training images", [name for name in names if name not in rows])
    refuse(path, "fit more than one training image", [n for n in names if n in shared and n not in exact])
    refuse(path, "are of unknown class", [name for name in names if dataset.labels[rows[name]] < 0])
    return torch.tensor(sorted({rows[name] for name in names}), dtype=torch.int64)


def refuse(path: Path, why: str, names: list[str]) -> None:
    """Raise a ValueError with the number of `names` and the first few, if there are any."""
    if names:
        shown = ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        raise ValueError(f"{len(names)} names in {path} {why}: {shown}")


def parse_share(text: str) -> float | None:
    """Return 0.01 for ``1%``, or None if ``text`` does not end in a percent sign.

    Raises:
        ValueError: what precedes the sign is not a number above 0 and at most 100.
    """
    if not text.endswith("%"):
        return None
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be above 0% and at most 100%, or a file of names, got {text!r}")
    return share


def labelled_rows(dataset: ImageDataset | ImageIndex, chosen: str, seed: int) -> Tensor:
    """Return sorted int64 row indices of the images whose labels may be used.

    Args:
        dataset: the training images.
        chosen: ``1%`` for that share of every class (`label_subset`), or the path of a list (`listed_rows`).
        seed: decides which images make up a share.

    Raises:
        ValueError: `chosen` is neither, or does not fit the images.
    """
    share = parse_share(chosen)
    if share is not None:
        return label_subset(dataset.labels, share, seed)
    path = Path(chosen)
    if not path.is_file():
        raise ValueError(f"share must be a share of each class such as 1%, or a file of names, got {chosen!r}")
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"share: {path} is a table of labels: --labels takes it")
    return listed_rows(dataset, path)


def subset_name(chosen: str) -> str:
    """Return the name of a choice of labels in file names: ``1pct`` for ``1%``, or the stem of a list's name."""
    share = parse_share(chosen)
    return Path(chosen).stem if share is None else f"{100 * share:g}pct"
