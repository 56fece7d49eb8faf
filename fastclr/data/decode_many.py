"""Decode many files with several threads, within a memory budget."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.in_flight import work_in_order
from fastclr.device import available_cores, available_memory, local_processes
from fastclr.sources.byte_ranges import Encoded
from fastclr.sources.decode import decode_image, decoding_bytes, pillow, resized
from fastclr.sources.folder import Files
from fastclr.sources.printable import progress_bar
from fastclr.sources.reading import AS_RGB, CHANNELS_FLAG, Pixels, Reading
from fastclr.sources.remarks import quiet_pillow

BLOCK = 2**25 + 2**20  # bytes; glibc maps what is larger than 2**25 by itself, so that it can be returned to the system
IN_FLIGHT = 4  # images that are being decoded may take this part of what those that are kept may take,
LEAST_IN_FLIGHT = 2**26  # and this in any case: a photo of 4 megapixels


@dataclass(frozen=True)
class DecodeOptions:
    """How files are decoded.

    Args:
        resize_shorter: reduce the shorter side of larger images to this many pixels; None keeps every size.
        memory_limit: largest number of bytes that decoded pixels, work on images and a training step's batches and
            views may take; None is half of the free memory, divided among the processes of a distributed job on this
            machine.
        workers: number of threads that decode; None is one per available core.
        batch_size: images of a training step in this process, if its batches will lie in main memory; room is left for
            two of them and their views.
        view_bytes: bytes of main memory that the views of one image take.
        reading: number of channels, and what becomes of more than 8 bits.

    Raises:
        ValueError: one of the first three is below 1.
    """

    resize_shorter: int | None = None
    memory_limit: int | None = None
    workers: int | None = None
    batch_size: int = 0
    view_bytes: int = 0
    reading: Reading = AS_RGB

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("resize_shorter", "memory_limit", "workers"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")

    def budget(self) -> int:
        """Return how many bytes of main memory this process may use for images."""
        return available_memory() // 2 // local_processes() if self.memory_limit is None else self.memory_limit

    def in_flight(self) -> int:
        """Return how many bytes may be held for images that are being decoded, beside those that are kept.

        An image that alone takes more is unreadable, in every reader.
        """
        return max(self.budget() // IN_FLIGHT, LEAST_IN_FLIGHT)

    def step_bytes(self, image_bytes: float) -> int:
        """Return what a training step takes for images of so many bytes: its batch, the next one, and the views."""
        return round(self.batch_size * (2 * image_bytes + self.view_bytes))


class Blocks:
    """Arrays of pixels, copied into large blocks of memory.

    The system takes a large block back once it is freed, but seldom the space of small ones that threads allocated: the
    images of a set would take twice their size while they are brought together.
    """

    def __init__(self) -> None:
        """There is no block yet."""
        self._free = np.empty(0, dtype=np.uint8)

    def keep(self, pixels: Pixels) -> Pixels:
        """Return a copy of `pixels`, ``[H, W, C]``, in the current block or in a new one."""
        if pixels.nbytes > BLOCK:
            return pixels
        if pixels.nbytes > len(self._free):
            self._free = np.empty(BLOCK, dtype=np.uint8)
        copy = self._free[: pixels.nbytes].reshape(pixels.shape)
        self._free = self._free[pixels.nbytes :]
        copy[...] = pixels
        return copy


def decode_files(
    files: Files, groups: Sequence[Collection[str]], options: DecodeOptions
) -> tuple[dict[str, Pixels], dict[str, str]]:
    """Decode several groups of files; return pixels by name and, for those that cannot be decoded, the reasons.

    Pixels of a group lie together, so that they can be freed together. On a terminal, a progress bar is shown.

    Raises:
        ValueError: the images would not fit into memory, or more than half cannot be decoded.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    pillow()  # a missing package is one error, not one for every file
    names = [name for group in groups for name in group]
    bar = progress_bar(total=len(names), desc="decoding", unit=" images")
    limit, image_bytes = options.budget(), estimated_bytes(files, 1, options)
    check_memory(files.source, estimated_bytes(files, len(names), options), len(names), limit, options)

    most = limit - options.step_bytes(image_bytes)
    blocks = {name: block for group in groups for block in [Blocks()] for name in group}
    decoded: dict[str, Pixels] = {}
    failed: dict[str, str] = {}
    total = 0
    with bar, quiet_pillow(files.source):
        for name, result in decode_in_order(files.stream(names), options):
            bar.update()
            if isinstance(result, str):
                failed[name] = result
                continue
            decoded[name] = blocks[name].keep(result)
            total += result.nbytes
            if total > most:
                check_memory(files.source, round(total * len(names) / len(decoded)), len(names), limit, options)
    return_freed_memory()
    check_readable(files.source, failed, len(names))
    return decoded, failed


def return_freed_memory() -> None:
    """Return to the system what threads allocated and freed: glibc keeps it, up to all that was ever in flight."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def estimated_bytes(files: Files, count: int, options: DecodeOptions) -> int:
    """Return roughly how many bytes ``count`` images of ``files`` take decoded, from a sample of their headers."""
    sizes = [resized(height, width, options.resize_shorter) for height, width in files.sizes]
    channels = options.reading.channels
    return round(count * channels * sum(height * width for height, width in sizes) / len(sizes)) if sizes else 0


def check_readable(source: str, failed: Mapping[str, str], total: int) -> None:
    """Raise ValueError if more than half of the images cannot be read, or some have other channels than the rest."""
    others = [name for name, reason in failed.items() if CHANNELS_FLAG in reason]
    if others and 2 * len(failed) <= total:
        listed = "; ".join(f"{name!a}: {failed[name]}" for name in sorted(others)[:5])
        raise ValueError(f"{len(others)} of {total} images in {source} have other channels than the rest: {listed}")
    if 2 * len(failed) > total:
        listed = "; ".join(f"{name!a}: {reason}" for name, reason in sorted(failed.items())[:5])
        raise ValueError(f"{len(failed)} of {total} images in {source} cannot be read: {listed}")


def check_memory(source: str, needed: int, count: int, limit: int, options: DecodeOptions | None = None) -> None:
    """Raise ValueError if ``needed`` bytes of pixels, beside what a training step takes, exceed ``limit``."""
    step = options.step_bytes(needed / max(count, 1)) if options else 0
    if needed + step > limit:
        beside = f" and {step / 1e9:.3g} GB for the batches and views of a training step" if step else ""
        raise ValueError(
            f"the {count} images of {source} take about {needed / 1e9:.3g} GB decoded{beside}, but "
            f"{limit / 1e9:.3g} GB may be used (half of the free memory unless memory_limit, --memory, says "
            "otherwise): set resize_shorter, use fewer images, or raise memory_limit"
        )


def decode_in_order(
    encoded: Iterable[tuple[str, Encoded]], options: DecodeOptions
) -> Iterator[tuple[str, Pixels | str]]:
    """Decode in several threads, a few images at a time; yield name and pixels, or name and reason, in order."""

    def decode(_: str, data: bytes) -> Pixels:
        return decode_image(data, options.resize_shorter, options.reading)

    workers, needs = options.workers or available_cores(), bytes_needed(options)
    return work_in_order(encoded, decode, options.in_flight(), workers, needs, lambda pixels: pixels.nbytes)


def bytes_needed(options: DecodeOptions) -> Callable[[bytes], int | None]:
    """Return the function from an encoded image, or its beginning, to the bytes that decoding it takes."""
    return lambda data: decoding_bytes(data, options.resize_shorter, options.reading)


def pack(pixels: list[Pixels]) -> Tensor | RaggedImages:
    """Return one tensor if all images have the same size, else a ragged batch; empties the list to save memory.

    Args:
        pixels: uint8 arrays ``[H, W, C]``, at least one.
    """
    sizes, channels = [array.shape[:2] for array in pixels], pixels[0].shape[2]
    counts = np.array([array.size for array in pixels], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    buffer = np.empty(offsets[-1], dtype=np.uint8)
    pixels.reverse()
    for start, count in zip(offsets[:-1].tolist(), counts.tolist(), strict=True):
        buffer[start : start + count] = pixels.pop().reshape(-1)
    data = torch.from_numpy(buffer)
    if len(set(sizes)) == 1:
        return data.view(len(sizes), *sizes[0], channels)
    places = torch.from_numpy(offsets[:-1].copy())
    return RaggedImages(data, places, torch.tensor(sizes, dtype=torch.int64), channels)
