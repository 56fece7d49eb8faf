"""The loader that decodes with Pillow in the worker processes of PyTorch's DataLoader."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastclr.data.batch import Batch
from fastclr.data.decode_many import pack
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.order import Order
from fastclr.data.plan import Plan
from fastclr.data.unreadable import (
    Failures,
    RemarkSummary,
    TooMuchAheadError,
    UnreadableError,
    check_loader_arguments,
    check_waiting,
    default_workers,
    first_readable,
    record_unreadable,
    with_resize,
)
from fastclr.sources.byte_ranges import Storage
from fastclr.sources.decode import decode_image, pillow
from fastclr.sources.reading import Pixels, Reading
from fastclr.sources.remarks import REMARKS, quiet_pillow

SHARED_MEMORY = Path("/dev/shm")

# epoch and step
Position = tuple[int, int]
# a batch, its unreadable images, and the number of remarks of decoders meanwhile
Step = tuple[Batch, Failures, int]


class TorchLoader:
    """Batches decoded by Pillow in worker processes, for any index of images.

    An image that turns out to be unreadable is replaced, in every epoch, by the one at the same place of the next step
    (around the end of the epoch), or by the first one after it that can be read. Its name and the reason are kept in
    ``skipped``, and a warning names it once. 64 unreadable images in a row are an error.

    Args:
        index: the images.
        order: batch size, shuffling and ranks.
        device: where the batches go; copies to a CUDA device are made from pinned memory, without waiting for them.
        workers: processes that decode, each a whole batch; 0 decodes in this one. None: one for each core, shared by
            the processes of a distributed job on this machine.
        prefetch: batches that each worker may decode ahead of the consumer.
        resize_shorter: reduce the shorter side of larger images to this many pixels; None: as the index says.

    Raises:
        TypeError: ``order`` is not an :class:`~fastclr.data.Order`.
        ValueError: an argument is out of range, there are too few images, or the batches that may wait in the workers
            do not fit into the system's shared memory, or into the memory that images may take.
        ModuleNotFoundError: Pillow is not installed.
    """

    def __init__(
        self,
        index: ImageIndex,
        order: Order,
        *,
        device: torch.device | str = "cpu",
        workers: int | None = None,
        prefetch: int = 2,
        resize_shorter: int | None = None,
    ) -> None:
        """Check the arguments; the workers start with the first epoch."""
        pillow()  # a missing package is an error here, not in a worker
        workers = default_workers() if workers is None else workers
        check_loader_arguments(workers, prefetch, resize_shorter, least_workers=0)
        index = with_resize(index, resize_shorter)
        self.plan = Plan(len(index), order, index.source)
        self.device = torch.device(device)
        self.order = order
        self.skipped: dict[str, str] = {}
        # one more batch is in use
        check_waiting(index, order.batch_size, workers * prefetch + 1, max(workers, 1))
        if workers > 0:
            check_shared_memory(index, min(order.batch_size, len(index)) * workers * prefetch)
        self._index = index
        self._summary = RemarkSummary(index.source)
        self._positions: list[Position] = []
        self._run = 0
        self._loader: DataLoader[Step | UnreadableError] | None = DataLoader(
            StepDataset(index.storage, index.ids, index.labels, self.plan, index.resize_shorter, index.reading),
            sampler=self._positions,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch if workers > 0 else None,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # else each epoch would draw from the generator that a model's dropout uses
        )

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same on every rank."""
        return len(self.plan)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of ``epoch`` from ``start_step`` on; this ends an earlier iteration of the loader.

        Args:
            epoch: number of the epoch, from 0.
            start_step: steps of this epoch that are already done, ``0 .. len(loader)``.

        Raises:
            ValueError: ``epoch`` is negative or ``start_step`` is out of range; while iterating: 64 images in a row
                cannot be read.
            RuntimeError: the loader is closed; while iterating: another epoch was started.
        """
        self.plan.check_start(epoch, start_step)
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        self._run += 1
        return self._batches(self._loader, self._run, epoch, start_step)

    def _batches(
        self, loader: DataLoader[Step | UnreadableError], run: int, epoch: int, start_step: int
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        self._check_run(run)
        self._positions[:] = [(epoch, step) for step in range(start_step, len(self))]
        with blocked_signals():
            results = iter(loader)
        remarks = 0
        with quiet_pillow():
            for result in results:
                if isinstance(result, UnreadableError):
                    raise result.named(self._index)
                batch, failures, said = result
                remarks += said
                record_unreadable(self._index, failures, self.skipped)
                yield batch.to(self.device, non_blocking=True)
                self._check_run(run)
        self._summary.add(remarks)

    def _check_run(self, run: int) -> None:
        """Raise RuntimeError when the workers are busy with another epoch."""
        if run != self._run or self._loader is None:
            raise RuntimeError("this epoch has ended: the loader was closed, or another epoch was started")

    def close(self) -> None:
        """Stop the workers; the loader cannot be used any more."""
        # garbage collection may wait up to five seconds for each worker, which can miss the message to stop
        if (stop := getattr(getattr(self._loader, "_iterator", None), "_shutdown_workers", None)) is not None:
            stop()
        self._loader = None


@dataclass
class StepDataset(Dataset["Step | UnreadableError"]):
    """The batch of every position ``(epoch, step)``, decoded on demand; the workers get this part of the loader."""

    storage: Storage
    ids: Tensor
    labels: Tensor
    plan: Plan
    resize_shorter: int | None
    reading: Reading

    def __post_init__(self) -> None:
        """Remember the permuted rows of one epoch."""
        self._permuted: tuple[int, Tensor] | None = None

    def __getitem__(self, position: Position) -> Step | UnreadableError:
        """Return the batch, its unreadable images and the number of remarks, or the error that prevents it.

        That is returned, not raised, because an error raised in a worker is reported as a page of text.
        """
        epoch, step = position
        if self._permuted is None or self._permuted[0] != epoch:
            self._permuted = (epoch, self.plan.permuted(epoch))
        rows: list[int] = []
        pixels: list[Pixels] = []
        failures: Failures = []
        for place in self.plan.positions(step):
            try:
                found = first_readable(self.plan.candidates(self._permuted[1], place), self.decode)
            except UnreadableError as error:
                return error
            rows.append(found[0])
            pixels.append(found[1])
            failures += found[2]
        return Batch(pack(pixels), self.ids[rows], self.labels[rows]), failures, REMARKS.take()

    def decode(self, row: int) -> Pixels:
        """Return the pixels of the image at ``row``."""
        return decode_image(self.storage.read(row), self.resize_shorter, self.reading)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT in this thread, so that a worker forked meanwhile is safe until `start_worker` runs."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_: int) -> None:
    """Prepare a worker: count what Pillow says, which does not name the file, and let only the parent end it."""
    REMARKS.enter()
    REMARKS.take()
    # a terminal or a scheduler signals all processes of a job, but the consumer still needs batches to stop cleanly
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey_parent, args=(os.getppid(),), daemon=True).start()


def obey_parent(parent: int) -> None:
    """End this process on a SIGTERM from its parent, as sent by ``Process.terminate``, and on no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def check_shared_memory(index: ImageIndex, images: int) -> None:
    """Raise TooMuchAheadError if that many decoded images do not fit into the system's shared memory.

    Containers often have only 64 MB of it, and a worker that exceeds it dies of a bus error.
    """
    if not SHARED_MEMORY.is_dir() or len(index) == 0:
        return
    status = os.statvfs(SHARED_MEMORY)
    free, needed = status.f_bavail * status.f_frsize, index.nbytes / len(index) * images
    if needed > free:
        raise TooMuchAheadError(
            f"the batches that wait in the workers take about {needed / 1e6:.0f} MB, but the shared memory of the "
            f"system ({SHARED_MEMORY}) has {free / 1e6:.0f} MB: choose fewer workers (0 needs none), a smaller "
            "prefetch or batch_size, or start the container with more (docker run --shm-size)"
        )
