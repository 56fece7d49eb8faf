"""How fast this machine decodes images, and how many cores a GPU needs."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastclr.sources.decode import decode_image
from fastclr.sources.jpeg import is_regular
from fastclr.sources.reading import AS_RGB, Reading
from fastclr.sources.remarks import quiet_pillow

SECONDS = 5.0  # time limit per measurement
DALI_BATCH = 16


def pillow_rate(samples: Sequence[bytes], resize_shorter: int | None = None, reading: Reading = AS_RGB) -> float:
    """Return how many images per second one core decodes with Pillow, as the loaders do.

    Args:
        samples: at least one encoded, decodable image.
        resize_shorter: reduce the shorter side to this many pixels.
        reading: number of channels, and what becomes of more than 8 bits.
    """
    with quiet_pillow():
        decode_image(samples[0], resize_shorter, reading)  # imports Pillow's plugin
        return measure(samples, 1, lambda batch: decode_image(batch[0], resize_shorter, reading))


def dali_rate(samples: Sequence[bytes], resize_shorter: int | None = None) -> float:
    """Return images per second decoded by one core with NVIDIA DALI's CPU decoder; arguments as for `pillow_rate`.

    Raises:
        ModuleNotFoundError: DALI is not installed.
        RuntimeError: DALI cannot decode one of the samples, or none of them is a JPEG for it.
    """
    dali: Any = importlib.import_module("nvidia.dali")
    samples = [data for data in samples if is_regular(data)]
    if not samples:
        raise RuntimeError("none of the sample is a regular JPEG")
    fn = dali.fn
    pipeline = dali.Pipeline(
        DALI_BATCH, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False, prefetch_queue_depth=1
    )
    with pipeline:
        images = fn.decoders.image(fn.external_source(name="encoded"), device="cpu", output_type=dali.types.RGB)
        if resize_shorter is not None:
            images = fn.resize(images, resize_shorter=resize_shorter)
        pipeline.set_outputs(images)

    def decode(batch: Sequence[bytes]) -> None:
        pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in batch])
        pipeline.run()

    decode(samples[:DALI_BATCH])  # builds the pipeline
    return measure(samples, DALI_BATCH, decode)


def measure(samples: Sequence[bytes], size: int, decode: Callable[[Sequence[bytes]], object]) -> float:
    """Return images per second over all samples, or over those decoded within the time limit."""
    done = 0
    start = time.perf_counter()
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        decode(batch)
        done += len(batch)
        if time.perf_counter() - start > SECONDS:
            break
    return done / (time.perf_counter() - start)


def cores_for(images_per_s: float, rate: float) -> int:
    """Return how many cores are needed to decode `images_per_s`, at `rate` images per second each."""
    return math.ceil(images_per_s / rate)
