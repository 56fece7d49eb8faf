"""Images that are listed but not decoded."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fastclr.data.batch import check_captions, check_label_range, check_rows, chosen
from fastclr.data.decode_many import DecodeOptions, bytes_needed
from fastclr.data.fingerprint import Fingerprinted
from fastclr.data.in_flight import check_image, work_in_order
from fastclr.device import available_cores
from fastclr.sources.byte_ranges import Storage
from fastclr.sources.decode import Header, examine, explain, glance, pillow, resized
from fastclr.sources.printable import progress_bar
from fastclr.sources.reading import AS_RGB, Reading
from fastclr.sources.remarks import quiet_pillow

# more threads than cores may read headers, because a thread mostly waits for the disk
HEADER_THREADS = 16
CHUNK = 256


@dataclass(frozen=True)
class ImageIndex(Fingerprinted):
    """Images in files, with ids, labels and names: an :class:`~fastclr.data.ImageDataset` before decoding.

    Args:
        storage: where the encoded images are stored.
        sizes: int64 ``[N, 2]``, height and width as the headers state them.
        plain: bool ``[N]``: JPEGs that, as far as their headers say, all decoders decode alike.
        ids: int64 ``[N]``; the rank of the image among all image files of its source, sorted by relative path, or
            among the samples of WebDataset shards. Files that cannot be read keep their rank.
        labels: int64 ``[N]``, an index into ``classes``; -1 where the class is unknown.
        classes: class names in label order; empty for unlabelled data.
        names: path of each image relative to the folder of its split.
        source: where the images came from, for messages.
        skipped: ``(name, reason)`` of each file that was left out.
        resize_shorter: loaders reduce the shorter side of larger images to this many pixels; None keeps every size.
        memory_limit: bytes that images and their views may take in loaders; None is half of the free memory.
        view_bytes: bytes of main memory that a step of training takes for the views of one image.
        captions: of each image, at least one; None if captions were not asked for.
        reading: number of channels, and what becomes of more than 8 bits.

    Raises:
        ValueError: the lengths differ, an image has no caption where others do, or a label is outside
            ``-1 .. len(classes) - 1``.
    """

    storage: Storage
    sizes: Tensor
    plain: Tensor
    ids: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    resize_shorter: int | None = None
    memory_limit: int | None = None
    view_bytes: int = 0
    captions: tuple[tuple[str, ...], ...] | None = None
    reading: Reading = AS_RGB

    def __post_init__(self) -> None:
        """Check the lengths and the range of the labels."""
        for name in ("storage", "sizes", "plain", "labels", "names"):
            if len(getattr(self, name)) != len(self.ids):
                raise ValueError(f"ImageIndex.{name} must have {len(self.ids)} entries, got {len(getattr(self, name))}")
        check_label_range(self.labels, self.classes)
        check_captions(type(self).__name__, self.captions, len(self))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether every image has a known class."""
        return len(self) > 0 and bool((self.labels >= 0).all())

    @property
    def nbytes(self) -> int:
        """Number of bytes of pixels of all images when decoded, from their headers."""
        sizes = self.sizes.double()
        if self.resize_shorter is not None:
            sizes = sizes * (self.resize_shorter / sizes.amin(dim=1, keepdim=True)).clamp_max(1)
        return int(self.reading.channels * sizes.prod(dim=1).sum())

    def _digest(self, header: list[Any]) -> str:
        """Return the digest of a header and the sizes of the files."""
        text = ascii([*header, self.storage.sizes.tolist()])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, row: int) -> bytes:
        """Return the encoded image at ``row``; threads and other processes may call this.

        Raises:
            OSError: the file is gone, or has become shorter since it was listed.
        """
        return self.storage.read(row)

    def decoded_size(self, row: int) -> tuple[int, int]:
        """Return the height and width of the image at ``row`` as loaders yield it."""
        height, width = self.sizes[row].tolist()
        return resized(height, width, self.resize_shorter)

    def select(self, indices: Tensor) -> ImageIndex:
        """Return the images at int64 row ``indices`` ``[n]``; their ids, names and labels stay with them.

        Raises:
            TypeError: ``indices`` is not int64.
            IndexError: an index is outside ``0 .. N - 1``.
        """
        check_rows(indices, len(self))
        return replace(
            self,
            storage=self.storage.select(indices.numpy()),
            sizes=self.sizes[indices],
            plain=self.plain[indices],
            ids=self.ids[indices],
            labels=self.labels[indices],
            names=chosen(self.names, indices),
            captions=None if self.captions is None else chosen(self.captions, indices),
        )


def check_headers(storage: Storage, options: DecodeOptions) -> list[Header | str]:
    """Return the header of every image of ``storage``, or the reason why it cannot be read.

    An image that takes more memory than ``options`` admits for one is not read, for the reason that decoding it would
    give. On a terminal, a progress bar is shown.

    Raises:
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    pillow()  # a missing package is one error, not one for every file
    resize, reading, limit = options.resize_shorter, options.reading, options.in_flight()
    workers = options.workers or available_cores()

    def check(rows: range) -> list[Header | str | None]:
        return [attempt(storage, row, resize, reading, limit) for row in rows]

    chunks = [range(start, min(start + CHUNK, len(storage))) for start in range(0, len(storage), CHUNK)]
    threads = options.workers or max(workers, HEADER_THREADS)
    headers: list[Header | str] = [""] * len(storage)
    rest: list[int] = []
    with progress_bar(total=len(storage), desc="indexing", unit=" images") as bar, quiet_pillow():
        with ThreadPoolExecutor(threads, thread_name_prefix="fastclr-index") as pool:
            for rows, found in zip(chunks, pool.map(check, chunks), strict=True):
                for row, header in zip(rows, found, strict=True):
                    if header is None:
                        rest.append(row)
                    else:
                        headers[row] = header
                bar.update(sum(header is not None for header in found))
        whole = ((str(row), storage.encoded(row)) for row in rest)

        def look(_: str, data: bytes) -> Header:
            return examine(data, resize, reading)

        for name, result in work_in_order(whole, look, limit, workers, bytes_needed(options)):
            headers[int(name)] = result
            bar.update()
    return headers


def attempt(
    storage: Storage, row: int, resize_shorter: int | None, reading: Reading, limit: int
) -> Header | str | None:
    """Return the header of an image, the reason why it cannot be read, or None if the whole file has to be seen."""
    try:
        header = glance(storage, row, resize_shorter, reading)
        if header is not None:
            check_image(header.needed, limit)
        return header
    except Exception as error:
        return explain(error)
