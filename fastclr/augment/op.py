"""The augmentation operators in Python: fakes and typed entry points.

``fastclr::augment_params`` draws packed parameters. ``fastclr::augment_apply`` computes the views of colour images, and
``fastclr::augment_planes`` those of images of any number of channels; the kernels are in csrc/ and raise a RuntimeError
for invalid shapes, dtypes or values before they read a byte. The checks that explain themselves are in
`fastclr.augment.simclr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import fastclr.augment.native  # noqa: F401  # loads or defines the operators

PARAMS = 16


def augment_params(
    ids: Tensor,
    sizes: Tensor,
    *,
    seed: int,
    epoch: int,
    first_view: int,
    views: int,
    size: int,
    sampler: Mapping[str, float],
) -> Tensor:
    """Draw packed parameters, which depend on (seed, epoch, id, view) and the image's own size only.

    Args:
        ids: int64 ``[N]``, non-negative.
        sizes: int64 ``[N, 2]``, height and width, on the device of `ids`.
        seed: the Philox key, 0 to 2^63 - 1.
        epoch: 0 to 2^32 - 1.
        first_view: index of the first view.
        views: number of views.
        size: side of the output; small outputs are never blurred.
        sampler: the remaining arguments of the schema, from `AugmentConfig.sampler`.

    Returns:
        float32 ``[views, N, 16]`` on the device of `ids`; see `fastclr.augment.AugmentParams` for the columns.
    """
    packed: Tensor = torch.ops.fastclr.augment_params(ids, sizes, seed, epoch, first_view, views, size, **sampler)
    return packed


def augment_apply(
    data: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    params: Tensor,
    *,
    size: int,
    style: int,
    planar: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    channels: int = 3,
) -> Tensor:
    """Compute views from packed parameters.

    Three channels are colours. Of any other number, each is an image of its own: brightness and contrast apply to it as
    to a grey image; saturation, hue and the conversion to grey do nothing.

    Args:
        data: uint8 ``[bytes]``, contiguous.
        offsets: int64 ``[N]``, first byte of every image.
        sizes: int64 ``[N, 2]``, height and width of every image.
        params: float32 ``[V, N, 16]``.
        size: side S of the views.
        style: 0 torchvision, 1 SimCLR's TensorFlow code, 2 the same with additive brightness.
        planar: whether an image is ``[C, height, width]`` instead of ``[height, width, C]``.
        mean: a value for each channel, or none to skip the normalisation.
        std: as many values as `mean`.
        dtype: float32, bfloat16, float16, or uint8 (without normalisation).
        channels_last: whether a view is stored as ``[S, S, C]``.
        channels: number of channels C, 1 to 16.

    Returns:
        ``[V, N, C, S, S]`` of `dtype`, contiguous, or with every ``[N, C, S, S]`` in channels_last format.
    """
    rest = (size, style, planar, mean, std, dtype, channels_last)
    if channels == 3:
        views: Tensor = torch.ops.fastclr.augment_apply(data, offsets, sizes, params, *rest)
    else:
        views = torch.ops.fastclr.augment_planes(data, offsets, sizes, params, channels, *rest)
    return views


def _augment_params_fake(
    ids: Tensor,
    sizes: Tensor,
    seed: int,
    epoch: int,
    first_view: int,
    views: int,
    size: int,
    *sampler: float,
    **options: float,
) -> Tensor:
    """Shape of the packed parameters."""
    return ids.new_empty((views, ids.shape[0], PARAMS), dtype=torch.float32)


def _augment_apply_fake(
    data: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    params: Tensor,
    size: int,
    style: int,
    planar: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """Shape, dtype and memory format of the views of colour images."""
    return _views_fake(data, params, 3, size, dtype, channels_last)


def _augment_planes_fake(
    data: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    params: Tensor,
    channels: int,
    size: int,
    style: int,
    planar: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """Likewise of images of any number of channels."""
    return _views_fake(data, params, channels, size, dtype, channels_last)


def _views_fake(
    data: Tensor, params: Tensor, channels: int, size: int, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    views, samples = params.shape[0], params.shape[1]
    if channels_last:
        return data.new_empty((views, samples, size, size, channels), dtype=dtype).permute(0, 1, 4, 2, 3)
    return data.new_empty((views, samples, channels, size, size), dtype=dtype)


torch.library.register_fake("fastclr::augment_params", _augment_params_fake)
torch.library.register_fake("fastclr::augment_apply", _augment_apply_fake)
torch.library.register_fake("fastclr::augment_planes", _augment_planes_fake)
