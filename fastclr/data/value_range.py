"""The range of values in images of more than 8 bits: found by a sample, told, and compared with what files use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastclr.data.decode_many import DecodeOptions
from fastclr.sources.byte_ranges import Encoded
from fastclr.sources.decode import decoding_bytes, deep_values
from fastclr.sources.entries import Entry
from fastclr.sources.folder import Files
from fastclr.sources.reading import Interval, Raw, Reading, interval_of
from fastclr.sources.remarks import quiet_pillow

SAMPLED = 64  # images, evenly spaced in the order of their names
PIXELS = 2**14  # of an image, on an even grid
PERCENTILES = (0.1, 99.9)
LITTLE = 0.1  # share of the range; an image that uses less is named
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".pgm", ".pnm", ".ppm", ".jp2", ".j2k", ".avif", ".npy", ".dcm")


@dataclass(frozen=True)
class Scaling:
    """What becomes of images of more than 8 bits.

    Args:
        reading: how they are read; ``auto`` has become a pair.
        text: the range that is used, in words; empty if no image of the sample has more than 8 bits.
    """

    reading: Reading
    text: str = ""

    @property
    def range(self) -> Interval | None:
        """The range if it is a pair."""
        return self.reading.range if isinstance(self.reading.range, tuple) else None


def evenly(count: int, most: int = SAMPLED) -> list[int]:
    """Return up to `most` positions among `count`, evenly spaced."""
    chosen = min(count, most)
    return [place * count // chosen for place in range(chosen)]


def scaling_of_files(files: Files, entries: Sequence[Entry], options: DecodeOptions) -> Scaling:
    """Look at a sample of the training images, find the range for ``auto``, and warn where little of it is used."""
    asked = options.reading.range
    candidates = [entry.path for entry in entries if entry.path.lower().endswith(DEEP_SUFFIXES)]
    if asked == "auto" and not candidates:  # formats without a suffix, as in tables
        candidates = [entry.path for entry in entries]
    chosen = [candidates[place] for place in evenly(len(candidates))]
    return scaling_of(sample_files(files, chosen, options), options.reading, files.source)


def sample_files(files: Files, paths: Sequence[str], options: DecodeOptions) -> Iterator[tuple[str, Raw | None]]:
    """Yield name and values of image files, None for those of 8 bits; what cannot be read is left out."""
    limit = options.in_flight()

    def admit(head: bytes, size: int) -> None:
        if size + (decoding_bytes(head, None, options.reading) or 0) > limit:
            raise MemoryError

    def stored() -> Iterator[tuple[str, Encoded]]:
        try:
            storage = files.storage(paths)
        except ValueError:  # readable from its beginning only, which is worth it where a range is to be found
            yield from files.stream(paths) if options.reading.range == "auto" else ()
        else:
            yield from ((path, storage.encoded(row)) for row, path in enumerate(paths))

    with quiet_pillow():
        for name, encoded in stored():
            try:
                yield name, deep_values(encoded.read(admit), options.reading)
            except ModuleNotFoundError:
                raise
            except Exception:  # it will be named as unreadable
                continue


def scaling_of(sample: Iterable[tuple[str, Raw | None]], reading: Reading, source: str) -> Scaling:
    """Return the range for ``auto``, and what to say of any; warn where images use little of it.

    Args:
        sample: names and values of images; None for images of 8 bits, which no range concerns.
        reading: as it was asked for.
        source: where the images come from, for messages.
    """
    pooled: list[npt.NDArray[np.float64]] = []
    ends: list[tuple[str, Interval, Interval | None]] = []
    count = 0
    for name, raw in sample:
        count += 1
        if raw is None:
            continue
        if reading.range == "auto":
            pooled.append(grid(raw))
        try:
            known = interval_of(raw, None if reading.range == "auto" else reading.range)
        except ValueError:
            known = None
        ends.append((name, raw.extremes(), known))
    if not ends:
        if reading.range is not None:
            warnings.warn(
                f"none of {count} sampled images of {source} has more than 8 bits, so --range has no effect on them",
                RuntimeWarning,
                stacklevel=2,
            )
        return Scaling(reading.within(None))
    if reading.range == "file":
        warnings.warn(
            f"--range file: the smallest and the largest value of each image of {source} become 0 and 255, so that "
            "brightness cannot be compared between images, and a single odd pixel sets it",
            RuntimeWarning,
            stacklevel=2,
        )
        return Scaling(reading, "the smallest and the largest value of each file become 0 and 255 (--range file)")
    how = "--range"
    if reading.range == "auto":
        reading = reading.within(robust_range(np.concatenate(pooled), source))
        how = f"--range auto: percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of {len(pooled)} training images"
    elif reading.range is None:
        how = "the full range of their type; --range LO HI, auto or file chooses another"
    used = [(name, both, reading.range if isinstance(reading.range, tuple) else known) for name, both, known in ends]
    told = next((interval for _, _, interval in used if interval is not None), None)
    if told is None:
        return Scaling(reading)
    warn_little(used, source)
    return Scaling(
        reading, f"values from {told[0]:g} to {told[1]:g} become 0 to 255 in images of more than 8 bits ({how})"
    )


def grid(raw: Raw) -> npt.NDArray[np.float64]:
    """Return the finite values of an even grid of pixels, in the unit of ranges."""
    height, width = raw.values.shape[:2]
    step = max(math.ceil(math.sqrt(height * width / PIXELS)), 1)
    values = raw.values[::step, ::step].astype(np.float64).reshape(-1) * raw.slope + raw.intercept
    found: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return found


def robust_range(values: npt.NDArray[np.float64], source: str) -> Interval:
    """Return two percentiles of all values.

    Raises:
        ValueError: they are equal.
    """
    low, high = (float(end) for end in np.percentile(values, PERCENTILES)) if len(values) else (0.0, 0.0)
    if low >= high:
        raise ValueError(
            f"--range auto finds no range in {source}: the sampled values are all {low:g}; say --range LO HI"
        )
    return low, high


def warn_little(used: list[tuple[str, Interval, Interval | None]], source: str) -> None:
    """Warn if images use less than a tenth of the range."""
    little = [
        (name, ends, interval)
        for name, ends, interval in used
        if interval is not None
        and min(ends[1], interval[1]) - max(ends[0], interval[0]) < LITTLE * (interval[1] - interval[0])
    ]
    if little:
        name, ends, interval = little[0]
        warnings.warn(
            f"{len(little)} of {len(used)} sampled images of {source} use less than a tenth of the range "
            f"{interval[0]:g} .. {interval[1]:g}, such as {name!a} with {ends[0]:g} .. {ends[1]:g}: the rest of 8 bits "
            "is lost; --range auto finds a range, --range LO HI sets one",
            RuntimeWarning,
            stacklevel=3,
        )
