"""Decode many files with several threads, within a memory budget."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.device import available_cores, available_memory, local_processes
from fastclr.sources.decode import Pixels, decode_image, explain, pillow, quiet_pillow, resized
from fastclr.sources.folder import Files


def progress_bar(total: int, description: str) -> Any:
    """Return tqdm's bar over ``total`` images, invisible unless stderr is a terminal.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs tqdm: pip install 'fastclr[train]'", name="tqdm") from error
    return tqdm(total=total, desc=description, unit=" images", disable=not sys.stderr.isatty())


CHUNK = 16
# an encoded image, its path, or what reads it
Content = bytes | Path | Callable[[], bytes]


@dataclass(frozen=True)
class DecodeOptions:
    """How files are decoded.

    Args:
        resize_shorter: reduce the shorter side of larger images to this many pixels; None keeps every size.
        memory_limit: largest number of bytes of decoded pixels; None is half of the free memory, divided among the
            processes of a distributed job on this machine.
        workers: number of threads that decode; None is one per available core.

    Raises:
        ValueError: a value is below 1.
    """

    resize_shorter: int | None = None
    memory_limit: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("resize_shorter", "memory_limit", "workers"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")

    def budget(self) -> int:
        """Return how many bytes of decoded pixels this process may hold in main memory."""
        return available_memory() // 2 // local_processes() if self.memory_limit is None else self.memory_limit


def decode_files(
    files: Files, names: Collection[str], options: DecodeOptions
) -> tuple[dict[str, Pixels], dict[str, str]]:
    """Decode the files ``names``; return their pixels by name and, for those that cannot be decoded, the reasons.

    On a terminal, a progress bar is shown.

    Raises:
        ValueError: the images would not fit into memory, or more than half cannot be decoded.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    pillow()  # a missing package is one error, not one for every file
    bar = progress_bar(len(names), "decoding")
    limit = options.budget()
    check_memory(files.source, estimated_bytes(files, len(names), options), len(names), limit)

    decoded: dict[str, Pixels] = {}
    failed: dict[str, str] = {}
    total = 0
    with bar, quiet_pillow():
        for name, result in decode_in_order(files.read(names), options):
            bar.update()
            if isinstance(result, str):
                failed[name] = result
                continue
            decoded[name] = result
            total += result.nbytes
            if total > limit:
                check_memory(files.source, round(total * len(names) / len(decoded)), len(names), limit)
    check_readable(files.source, failed, len(names))
    return decoded, failed


def estimated_bytes(files: Files, count: int, options: DecodeOptions) -> int:
    """Return roughly how many bytes ``count`` images of ``files`` take decoded, from a sample of their headers."""
    sizes = [resized(height, width, options.resize_shorter) for height, width in files.sizes]
    return round(count * sum(3 * height * width for height, width in sizes) / len(sizes)) if sizes else 0


def check_readable(source: str, failed: Mapping[str, str], total: int) -> None:
    """Raise ValueError if more than half of the images cannot be read."""
    if 2 * len(failed) > total:
        listed = "; ".join(f"{name!a}: {reason}" for name, reason in sorted(failed.items())[:5])
        raise ValueError(f"{len(failed)} of {total} images in {source} cannot be read: {listed}")


def check_memory(source: str, needed: int, count: int, limit: int) -> None:
    """Raise ValueError if ``needed`` bytes of pixels exceed ``limit``."""
    if needed > limit:
        raise ValueError(
            f"the {count} images of {source} take about {needed / 1e9:.3g} GB decoded, but {limit / 1e9:.3g} GB may be "
            "used (half of the free memory unless memory_limit says otherwise): set resize_shorter, use fewer images, "
            "or raise memory_limit"
        )


def decode_in_order(
    encoded: Iterator[tuple[str, Content]], options: DecodeOptions
) -> Iterator[tuple[str, Pixels | str]]:
    """Decode in several threads with a few files in flight; yield name and pixels, or name and reason, in order."""
    workers = options.workers or available_cores()
    window: deque[Future[list[tuple[str, Pixels | str]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="fastclr-decode") as pool:
        while chunk := list(islice(encoded, CHUNK)):
            window.append(pool.submit(decode_chunk, chunk, options.resize_shorter))
            if len(window) > 2 * workers:
                yield from window.popleft().result()
        while window:
            yield from window.popleft().result()


def decode_chunk(chunk: list[tuple[str, Content]], resize_shorter: int | None) -> list[tuple[str, Pixels | str]]:
    """Decode a few files; whatever Pillow raises for a damaged file becomes a reason."""
    results: list[tuple[str, Pixels | str]] = []
    for name, data in chunk:
        try:
            results.append((name, decode_image(data() if callable(data) else data, resize_shorter)))
        except Exception as error:
            results.append((name, explain(error)))
    return results


def pack(pixels: list[Pixels]) -> Tensor | RaggedImages:
    """Return one tensor if all images have the same size, else a ragged batch; empties the list to save memory.

    Args:
        pixels: uint8 arrays ``[H, W, 3]``, at least one.
    """
    sizes = [array.shape[:2] for array in pixels]
    counts = np.array([array.size for array in pixels], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    buffer = np.empty(offsets[-1], dtype=np.uint8)
    pixels.reverse()
    for start, count in zip(offsets[:-1].tolist(), counts.tolist(), strict=True):
        buffer[start : start + count] = pixels.pop().reshape(-1)
    data = torch.from_numpy(buffer)
    if len(set(sizes)) == 1:
        return data.view(len(sizes), *sizes[0], 3)
    return RaggedImages(data, torch.from_numpy(offsets[:-1].copy()), torch.tensor(sizes, dtype=torch.int64))
