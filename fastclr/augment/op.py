"""The augmentation operators in Python: fakes and typed entry points.

``fastclr::augment_params`` draws packed parameters, ``fastclr::augment_apply`` computes views from them; the kernels
are in csrc/ and raise a RuntimeError for invalid shapes, dtypes or values before they read a byte. The checks that
explain themselves are in `fastclr.augment.simclr`.
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
) -> Tensor:
    """Compute views from packed parameters.

    Args:
        data: uint8 ``[bytes]``, contiguous.
        offsets: int64 ``[N]``, first byte of every image.
        sizes: int64 ``[N, 2]``, height and width of every image.
        params: float32 ``[V, N, 16]``.
        size: side S of the views.
        style: 0 torchvision, 1 SimCLR's TensorFlow code, 2 the same with additive brightness.
        planar: whether an image is ``[3, height, width]`` instead of ``[height, width, 3]``.
        mean: three values, or none to skip the normalisation.
        std: as many values as `mean`.
        dtype: float32, bfloat16, float16, or uint8 (without normalisation).
        channels_last: whether a view is stored as ``[S, S, 3]``.

    Returns:
        ``[V, N, 3, S, S]`` of `dtype`, contiguous, or with every ``[N, 3, S, S]`` in channels_last format.
    """
    views: Tensor = torch.ops.fastclr.augment_apply(
        data, offsets, sizes, params, size, style, planar, mean, std, dtype, channels_last
    )
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
    """Shape, dtype and memory format of the views."""
    views, samples = params.shape[0], params.shape[1]
    if channels_last:
        return data.new_empty((views, samples, size, size, 3), dtype=dtype).permute(0, 1, 4, 2, 3)
    return data.new_empty((views, samples, 3, size, size), dtype=dtype)


torch.library.register_fake("fastclr::augment_params", _augment_params_fake)
torch.library.register_fake("fastclr::augment_apply", _augment_apply_fake)
