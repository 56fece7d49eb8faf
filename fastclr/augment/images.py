"""A container for a batch of uint8 images of mixed sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_CHANNELS = 16


@dataclass(frozen=True)
class RaggedImages:
    """Images of mixed sizes in one flat byte buffer.

    Image ``i`` is the row-major ``[height, width, channels]`` block of ``data`` that starts at byte ``offsets[i]``,
    with ``height, width = sizes[i]``.

    Args:
        data: uint8 ``[bytes]``, contiguous, any device.
        offsets: int64 ``[N]``, same device as ``data``. Offsets may repeat or come in any order.
        sizes: int64 ``[N, 2]``, same device as ``data``: height and width in pixels, both at least 1.
        channels: number of channels of all images, 1 to 16; 3 are colours.

    Raises:
        TypeError: a field has the wrong dtype.
        ValueError: a field has the wrong shape or lies on another device.
    """

    data: Tensor
    offsets: Tensor
    sizes: Tensor
    channels: int = 3

    def __post_init__(self) -> None:
        """Check dtypes, shapes and devices; values are checked where they are used."""
        for name, dtype, dims in (("data", torch.uint8, 1), ("offsets", torch.int64, 1), ("sizes", torch.int64, 2)):
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype:
                raise TypeError(f"RaggedImages.{name} must be {dtype}, got {tensor.dtype}")
            if tensor.dim() != dims:
                raise ValueError(f"RaggedImages.{name} must have {dims} dimension(s), got shape {tuple(tensor.shape)}")
            if tensor.device != self.data.device:
                raise ValueError(f"RaggedImages.{name} is on {tensor.device}, but data is on {self.data.device}")
        if self.sizes.shape != (len(self.offsets), 2):
            raise ValueError(f"RaggedImages.sizes must be [{len(self.offsets)}, 2], got {tuple(self.sizes.shape)}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"RaggedImages.channels must be 1 to {MAX_CHANNELS}, got {self.channels}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.offsets)

    @property
    def device(self) -> torch.device:
        """The device of the pixels."""
        return self.data.device

    def select(self, indices: Tensor) -> RaggedImages:
        """Return the images at ``indices``, int64 ``[n]``; the pixels are shared, not copied."""
        return RaggedImages(self.data, self.offsets[indices], self.sizes[indices], self.channels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RaggedImages:
        """Return the same images on ``device``; ``non_blocking`` does not wait for a copy from pinned memory."""
        tensors = (self.data, self.offsets, self.sizes)
        data, offsets, sizes = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        return RaggedImages(data, offsets, sizes, self.channels)

    def pin_memory(self) -> RaggedImages:
        """Return the same images in pinned (page-locked) CPU memory."""
        data, offsets, sizes = (tensor.pin_memory() for tensor in (self.data, self.offsets, self.sizes))
        return RaggedImages(data, offsets, sizes, self.channels)

    def image(self, index: int) -> Tensor:
        """Return image ``index`` as uint8 ``[height, width, channels]``, a view of the buffer."""
        height, width = self.sizes[index].tolist()
        start = int(self.offsets[index])
        count = height * width * self.channels
        return self.data[start : start + count].view(height, width, self.channels)
