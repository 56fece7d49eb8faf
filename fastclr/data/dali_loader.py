"""The loader that decodes with NVIDIA DALI, on the CPU or on the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.batch import Batch
from fastclr.data.dali_decoder import DEPTH, DaliDecoder
from fastclr.data.decode_many import pack
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.order import Order
from fastclr.data.plan import Plan
from fastclr.data.prefetch import Prefetcher
from fastclr.data.unreadable import (
    Failures,
    RemarkSummary,
    UnreadableError,
    check_loader_arguments,
    check_waiting,
    default_workers,
    first_readable,
    record_unreadable,
    with_resize,
)
from fastclr.sources.decode import decode_image
from fastclr.sources.jpeg import is_regular
from fastclr.sources.reading import Pixels
from fastclr.sources.remarks import REMARKS, quiet_pillow


@dataclass(frozen=True)
class BatchImage:
    """An image of a batch: its row, and either its bytes for DALI or its pixels from Pillow."""

    row: int
    content: bytes | Pixels


@dataclass(frozen=True)
class Prepared:
    """A batch that is read but not decoded."""

    step: int
    images: list[BatchImage]
    failures: Failures

    @property
    def encoded(self) -> list[tuple[int, bytes]]:
        """Row and bytes of the images that DALI decodes."""
        return [(image.row, image.content) for image in self.images if isinstance(image.content, bytes)]


class DaliLoader:
    """Batches decoded by NVIDIA DALI while the consumer uses earlier ones.

    Threads of this loader read the files. DALI decodes JPEGs with grey or YCbCr pixels and a regular structure (see
    :func:`fastclr.sources.jpeg.is_regular`), with libjpeg-turbo on the CPU (the pixels are those of Pillow) and with
    nvJPEG on a CUDA device. All other images, and those that DALI refuses, are decoded by Pillow into the same batch:
    what Pillow refuses is unreadable for every loader, and DALI, which may crash on odd files, does not see them. A
    batch that DALI decoded alone is not copied; one with other images is copied once.

    An image that turns out to be unreadable is replaced, in every epoch, by the one at the same place of the next step
    (around the end of the epoch), or by the first one after it that can be read. Its name and the reason are kept in
    ``skipped``, and a warning names it once. 64 unreadable images in a row are an error.

    Args:
        index: the images.
        order: batch size, shuffling and ranks.
        device: where the batches go, and where DALI decodes.
        workers: number of threads that decode, and of those that read. None: one for each core, shared by the
            processes of a distributed job on this machine.
        prefetch: batches that may be decoded ahead of the consumer.
        resize_shorter: reduce the shorter side of larger images to this many pixels, with antialiased bilinear
            interpolation like the other loaders, but not bit-identically; None: as the index says.

    Raises:
        TypeError: ``order`` is not an :class:`~fastclr.data.Order`.
        ValueError: an argument is out of range, there are too few images, or the batches that may wait do not fit into
            the memory that images may take.
        ModuleNotFoundError: DALI or Pillow is not installed.
        RuntimeError: DALI cannot run on ``device``.
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
        """Check the arguments and build the decoder."""
        workers = default_workers() if workers is None else workers
        check_loader_arguments(workers, prefetch, resize_shorter, least_workers=1)
        self.plan = Plan(len(index), order, index.source)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            # the current device of this thread, not that of the thread that prefetches
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.order = order
        self.skipped: dict[str, str] = {}
        self._index, self._prefetch, self._closed = with_resize(index, resize_shorter), prefetch, False
        self._summary = RemarkSummary(self._index.source)
        self._by_dali = index.plain.numpy().copy()
        resize = self._index.resize_shorter is not None
        # finished ones, one in use, and DALI's, which keeps the memory of as many again
        check_waiting(self._index, order.batch_size, prefetch + 1 + 2 * DEPTH, workers)
        self._arguments = (min(order.batch_size, len(index)), workers, self.device, resize)
        self._decoder = DaliDecoder(*self._arguments)
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="fastclr-read")
        self._prefetcher: Prefetcher[tuple[Batch, Failures]] | None = None

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
            RuntimeError: the loader is closed; while iterating: another epoch was started, or DALI failed for a
                reason other than an image.
        """
        self.plan.check_start(epoch, start_step)
        if self._closed:
            raise RuntimeError("the loader is closed")
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._prefetcher = Prefetcher(self._prefetch, lambda prefetcher: self._produce(prefetcher, epoch, start_step))
        return self._batches(self._prefetcher)

    def _batches(self, prefetcher: Prefetcher[tuple[Batch, Failures]]) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        try:
            with quiet_pillow():
                for batch, failures in prefetcher:
                    record_unreadable(self._index, failures, self.skipped)
                    yield batch
        except UnreadableError as error:
            raise error.named(self._index) from None
        self._summary.add(REMARKS.take())
        if prefetcher is not self._prefetcher:
            raise RuntimeError("this epoch has ended: the loader was closed, or another epoch was started")

    def close(self) -> None:
        """Stop all threads and free DALI's memory; the loader cannot be used any more."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._prefetcher, self._closed = None, True
        self._readers.shutdown()
        self._decoder.close()

    def _produce(self, prefetcher: Prefetcher[tuple[Batch, Failures]], epoch: int, start_step: int) -> None:
        """Read, decode and hand over the batches of one epoch; runs in the background."""
        permuted = self.plan.permuted(epoch)
        waiting: deque[Prepared] = deque()
        try:
            for step in range(start_step, len(self)):
                while waiting and (len(waiting) == DEPTH or not prefetcher.has_room()):
                    prefetcher.put(self._finish(waiting, permuted))
                if not prefetcher.acquire():
                    return
                waiting.append(self._prepare(permuted, step))
                self._submit(waiting[-1])
            while waiting:
                prefetcher.put(self._finish(waiting, permuted))
        finally:
            self._drop()

    def _prepare(self, permuted: Tensor, step: int) -> Prepared:
        """Read the images of a step, and decode those that DALI does not."""

        def read(places: range) -> list[tuple[int, bytes | Pixels, Failures]]:
            return [first_readable(self.plan.candidates(permuted, place), self._read) for place in places]

        places = self.plan.positions(step)
        size = max(len(places) // 64, 1)
        chunks = [places[start : start + size] for start in range(0, len(places), size)]
        batch_images: list[BatchImage] = []
        failures: Failures = []
        for part in self._readers.map(read, chunks):
            for row, content, failed in part:
                batch_images.append(BatchImage(row, content))
                failures += failed
        return Prepared(step, batch_images, failures)

    def _read(self, row: int) -> bytes | Pixels:
        """Return the bytes of an image if DALI decodes it, else its pixels."""
        data = self._index.read(row)
        # the file may have changed since it was listed, and a header says nothing about what follows it
        height, width = self._index.sizes[row].tolist()
        if self._by_dali[row] and is_regular(data, (height, width)):
            return data
        return decode_image(data, self._index.resize_shorter, self._index.reading)

    def _submit(self, prepared: Prepared) -> None:
        """Start decoding the images of a batch that are for DALI."""
        if prepared.encoded:
            sizes = [self._index.decoded_size(row) for row, _ in prepared.encoded]
            self._decoder.submit([data for _, data in prepared.encoded], sizes)

    def _finish(self, waiting: deque[Prepared], permuted: Tensor) -> tuple[Batch, Failures]:
        """Complete the oldest batch that waits for its pixels."""
        decoded = None
        while waiting[0].encoded and decoded is None:
            try:
                decoded = self._decoder.collect()
            except RuntimeError as error:
                self._recover(waiting, permuted, error)
        prepared = waiting.popleft()
        rows = torch.tensor([image.row for image in prepared.images])
        images = assemble([image.content for image in prepared.images], decoded, self.device)
        batch = Batch(images, self._index.ids[rows].to(self.device), self._index.labels[rows].to(self.device))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the consumer may use another stream
        return batch, prepared.failures

    def _recover(self, waiting: deque[Prepared], permuted: Tensor, error: RuntimeError) -> None:
        """Find the images of the oldest batch that DALI cannot decode, leave them to Pillow, and resubmit all batches.

        Raises:
            RuntimeError: DALI can decode every one of them, so something else is wrong.
        """
        self._decoder = DaliDecoder(*self._arguments)
        refused = [row for row, data in waiting[0].encoded if not self._decodes(row, data)]
        if not refused:
            raise error
        self._by_dali[refused] = False
        waiting[0] = self._prepare(permuted, waiting[0].step)
        for prepared in waiting:
            self._submit(prepared)

    def _decodes(self, row: int, data: bytes) -> bool:
        """Return whether DALI can decode an image; if it cannot, the broken decoder is replaced."""
        try:
            self._decoder.submit([data], [self._index.decoded_size(row)])
            self._decoder.collect()
        except RuntimeError:
            self._decoder = DaliDecoder(*self._arguments)
            return False
        return True

    def _drop(self) -> None:
        """Drop the batches that the decoder still works on."""
        try:
            self._decoder.drain()
        except RuntimeError:
            self._decoder = DaliDecoder(*self._arguments)


def assemble(
    contents: list[bytes | Pixels], decoded: tuple[Tensor, list[tuple[int, int]]] | None, device: torch.device
) -> Tensor | RaggedImages:
    """Return the images of a batch on ``device``: DALI's where ``contents`` has bytes, else the pixels in it.

    Args:
        contents: for each image, the bytes that were passed to DALI, or its pixels.
        decoded: DALI's pixels, one image after the other on ``device``, and their sizes; None if DALI had no image.
        device: where the images go.
    """
    others = [content for content in contents if not isinstance(content, bytes)]
    if decoded is None:
        return pack(others).to(device)
    data, sizes = decoded
    if others:
        # joined first, because Pillow's arrays are read-only, which PyTorch warns about
        joined = np.concatenate([pixels.reshape(-1) for pixels in others])
        data = torch.cat([data, torch.from_numpy(joined).to(device)])
        sizes = [*sizes, *(pixels.shape[:2] for pixels in others)]
    # DALI's images come first in the buffer
    by_dali = np.array([isinstance(content, bytes) for content in contents])
    places = torch.from_numpy(np.where(by_dali, by_dali.cumsum() - 1, by_dali.sum() + (~by_dali).cumsum() - 1))
    if len(set(sizes)) == 1:
        images = data.view(len(sizes), *sizes[0], 3)
        return images[places.to(device)] if others else images
    shapes = torch.tensor(sizes)
    counts = 3 * shapes.prod(1)
    starts = counts.cumsum(0) - counts
    return RaggedImages(data, starts[places].to(device), shapes[places].to(device))
