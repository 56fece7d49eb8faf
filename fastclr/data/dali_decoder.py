"""Decode batches of JPEGs with an NVIDIA DALI pipeline that does nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from fastclr.sources.decode import pillow
from fastclr.sources.packages import needed

# batches that DALI works on at a time, so that the next one begins while the last images of one are decoded
DEPTH = 2


def dali() -> Any:
    """Return the module ``nvidia.dali`` with ``nvidia.dali.fn``; a ModuleNotFoundError says how to get it."""
    for module in ("nvidia.dali.fn", "nvidia.dali"):
        found = needed(module, "decoding with DALI needs NVIDIA DALI", "dali")
    return found


class DaliDecoder:
    """Encoded JPEGs in, RGB pixels out, in order; the EXIF orientation is applied.

    On the CPU, DALI decodes with libjpeg-turbo; on a CUDA device with nvJPEG, in hardware where available. An image
    that cannot be decoded breaks the decoder, which must then be replaced by a new one.

    Args:
        batch_size: largest number of images in a batch.
        threads: number of threads that decode.
        device: where the pixels go; a CUDA device must have an index.
        resize: resize images to the sizes passed with them (bilinear, antialiased).

    Raises:
        ModuleNotFoundError: DALI or Pillow is not installed.
        RuntimeError: DALI cannot run on ``device``.
    """

    def __init__(self, batch_size: int, threads: int, device: torch.device, resize: bool) -> None:
        """Build the pipeline and decode a first image."""
        nvidia_dali = dali()
        fn, types = nvidia_dali.fn, nvidia_dali.types
        on_gpu = device.type == "cuda"
        self._pipeline: Any = nvidia_dali.Pipeline(
            batch_size=batch_size,
            num_threads=threads,
            device_id=device.index if on_gpu else None,
            prefetch_queue_depth=DEPTH,
            seed=0,
        )
        with self._pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            images = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
            if resize:
                sizes = fn.external_source(name="sizes", dtype=types.FLOAT, ndim=1)
                images = fn.resize(images, size=sizes, interp_type=types.INTERP_LINEAR, antialias=True)
            self._pipeline.set_outputs(images)
        self._pipeline.build()
        self._resize = resize
        self._running = 0
        self._warm_up()

    def _warm_up(self) -> None:
        """Decode one image: the first run of a pipeline consumes as many batches as it works on at a time."""
        buffer = io.BytesIO()
        pillow().new("RGB", (16, 16)).save(buffer, "JPEG")
        for _ in range(DEPTH):
            self._feed([buffer.getvalue()], [(16, 16)])
        self._pipeline.schedule_run()
        for _ in range(DEPTH):
            self._pipeline.outputs()

    def _feed(self, encoded: list[bytes], sizes: list[tuple[int, int]]) -> None:
        """Pass one batch to the pipeline."""
        self._pipeline.feed_input("encoded", [np.frombuffer(data, dtype=np.uint8) for data in encoded])
        if self._resize:
            self._pipeline.feed_input("sizes", [np.array(size, dtype=np.float32) for size in sizes])

    def submit(self, encoded: list[bytes], sizes: list[tuple[int, int]]) -> None:
        """Start decoding a batch; at most ``DEPTH`` batches may be in flight.

        Args:
            encoded: the JPEGs.
            sizes: target height and width of each image; ignored without ``resize``.

        Raises:
            RuntimeError: the decoder is broken.
        """
        self._feed(encoded, sizes)
        self._pipeline.schedule_run()
        self._running += 1

    def collect(self) -> tuple[Tensor, list[tuple[int, int]]]:
        """Wait for the oldest batch; return its pixels, uint8 ``[bytes]``, one image after the other, and their sizes.

        The pixels stay in DALI's memory, which is reused for other batches once the tensor is freed. They are copied
        only where DALI has not laid out the images contiguously.

        Raises:
            RuntimeError: an image cannot be decoded, or the decoder is broken.
        """
        self._running -= 1
        (images,) = self._pipeline.outputs()
        sizes = [(height, width) for height, width, _ in images.shape()]
        try:
            return from_dlpack(images.as_reshaped_tensor([sum(3 * h * w for h, w in sizes)])), sizes
        except RuntimeError:
            parts = [from_dlpack(images[index]).reshape(-1) for index in range(len(sizes))]
            return torch.cat(parts), sizes

    def drain(self) -> None:
        """Wait for the batches in flight, and drop them."""
        while self._running > 0:
            self.collect()

    def close(self) -> None:
        """Free the pipeline, and the memory that DALI keeps for the next one."""
        self._pipeline = None
        dali().backend.ReleaseUnusedMemory()
