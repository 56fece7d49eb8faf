"""Read the items of a map-style dataset in order: in this process, or in workers of PyTorch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fastclr.data.torch_loader import blocked_signals, start_worker
from fastclr.data.unreadable import default_workers
from fastclr.sources.reading import Pixels

CHUNK = 32  # items that a worker hands over at a time
FEW = 512  # items for which workers are not started unless they are asked for

# pixels and label; why the item cannot be read; or what makes the whole dataset unusable
Item = tuple[Pixels, Any] | str | Exception


@dataclass
class Chunks(Dataset[list[Item]]):
    """Runs of items, for the workers."""

    read: Callable[[int], Item]
    rows: range

    def __len__(self) -> int:
        """Return the number of runs."""
        return -(-len(self.rows) // CHUNK)

    def __getitem__(self, chunk: int) -> list[Item]:
        """Return the items of one run."""
        return [self.read(row) for row in self.rows[chunk * CHUNK : (chunk + 1) * CHUNK]]


def as_it_is(chunk: list[Item]) -> list[Item]:
    """Return a run unchanged, where the DataLoader would make tensors."""
    return chunk


def workers_for(dataset: Any, asked: int | None) -> int:
    """Return how many processes read a dataset; 0 is this one alone.

    A dataset that keeps a file open may not bear to be read by several processes, so that these are started when they
    are asked for. Hugging Face's are made for it.
    """
    if asked is not None:
        return asked if asked > 1 else 0
    known = type(dataset).__module__.partition(".")[0] == "datasets"
    cores = default_workers()
    return cores if known and cores > 1 and len(dataset) >= FEW else 0


def read_in_order(read: Callable[[int], Item], rows: range, workers: int) -> Iterator[Item]:
    """Yield the items at `rows`, in this order whoever reads them.

    Args:
        read: returns one item and raises nothing.
        rows: positions.
        workers: processes; 0 reads in this one.
    """
    if workers == 0 or not rows:
        yield from map(read, rows)
        return
    loader = DataLoader(
        Chunks(read, rows),
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # so that none is drawn from the generator of the program
    )
    with blocked_signals():
        chunks = iter(loader)
    for chunk in chunks:
        yield from chunk
