"""SimCLR augmentation of whole batches: separate parameters per sample and view, all views in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from fastclr.augment import native
from fastclr.augment import op as ops
from fastclr.augment import reference as reference
from fastclr.augment.config import AugmentConfig, AugmentParams
from fastclr.augment.images import RaggedImages

__all__ = ["AugmentConfig", "AugmentParams", "SimCLRAugment"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)
IMPLEMENTATIONS = ("auto", "native", "reference")


@dataclass(frozen=True)
class _Sources:
    """The N images as the operator takes them: flat bytes, first byte and size of each, and the layout."""

    data: Tensor
    offsets: Tensor
    sizes: Tensor
    planar: bool
    channels: int


def _check_integers(name: str, value: Tensor, device: torch.device) -> None:
    """Raise unless `value` is a non-empty int64 vector on `device`."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be an int64 tensor, got {kind}")
    if value.dim() != 1:
        raise ValueError(f"{name} must be [N], got shape {tuple(value.shape)}")
    if len(value) == 0:
        raise ValueError(f"{name} is empty: a batch needs at least one image")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected {device}")


def _can_look(value: Tensor) -> bool:
    """Whether values may be read here: on an accelerator that would synchronise, and a compiler cannot trace it."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_range(name: str, value: Tensor, count: int | None) -> None:
    """Raise unless all values are at least 0 and, if `count` is given, below it."""
    if not _can_look(value):
        return
    lowest, highest = int(value.min()), int(value.max())
    if lowest < 0:
        raise ValueError(f"{name} must not be negative, got {lowest}")
    if count is not None and highest >= count:
        raise ValueError(f"{name} must be below the number of images {count}, got {highest}")


def _check_boxes(params: AugmentParams, sizes: Tensor) -> None:
    """Raise if a crop box does not lie inside its image."""
    if not _can_look(params.packed):
        return
    top, left, height, width = params.packed[..., :4].unbind(-1)
    inside = (top >= 0) & (left >= 0) & (height >= 1) & (width >= 1)
    inside &= (top + height <= sizes[:, 0]) & (left + width <= sizes[:, 1])
    if not bool(inside.all()):
        v, n = (~inside).nonzero()[0].tolist()
        box, size = params.packed[v, n, :4].tolist(), tuple(sizes[n].tolist())
        raise ValueError(f"crop box (top, left, height, width) {box} of view {v} leaves image {n} of {size} pixels")


def _filled_sizes(like: Tensor, height: int, width: int) -> Tensor:
    """Sizes [N, 2] of equally large images; filled rather than copied from the host, which would synchronise."""
    sizes = like.new_empty((like.shape[0], 2), dtype=torch.int64)
    sizes[:, 0].fill_(height)
    sizes[:, 1].fill_(width)
    return sizes


def _dense(images: Tensor, indices: Tensor | None, channels: int) -> _Sources:
    """Describe rows of a dense batch or dataset, without copying contiguous or channels_last batches."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.dim() != 4 or channels not in (images.shape[3], images.shape[1]):
        raise ValueError(
            f"images must be [N, H, W, {channels}] or [N, {channels}, H, W], as the configuration's channels={channels}"
            f" says, got shape {tuple(images.shape)}"
        )
    if images.numel() == 0:
        raise ValueError(f"images is empty: shape {tuple(images.shape)}")
    planar = images.shape[3] != channels
    if planar and images.permute(0, 2, 3, 1).is_contiguous():
        images, planar = images.permute(0, 2, 3, 1), False
    height, width = (images.shape[2], images.shape[3]) if planar else (images.shape[1], images.shape[2])
    rows = torch.arange(images.shape[0], device=images.device) if indices is None else indices
    sizes = _filled_sizes(rows, height, width)
    return _Sources(images.contiguous().view(-1), rows * (channels * height * width), sizes, planar, channels)


def _sources(images: object, indices: Tensor | None, channels: int) -> _Sources:
    """Describe the selected images for the operator, without copying them together."""
    if not isinstance(images, (Tensor, RaggedImages)):
        raise TypeError(f"images must be a uint8 tensor or RaggedImages, got {type(images).__name__}")
    if indices is not None:
        _check_integers("indices", indices, images.device)
        _check_range("indices", indices, len(images))
    if isinstance(images, Tensor):
        return _dense(images, indices, channels)
    if images.channels != channels:
        raise ValueError(f"images must have the configuration's channels={channels}, got {images.channels}")
    if len(images) == 0:
        raise ValueError("images is empty: a batch needs at least one image")
    chosen = images if indices is None else images.select(indices)
    sources = _Sources(chosen.data.contiguous(), chosen.offsets, chosen.sizes, False, channels)
    if _can_look(chosen.sizes):
        ends = chosen.offsets + channels * chosen.sizes[:, 0] * chosen.sizes[:, 1]
        bad = (chosen.offsets < 0) | (chosen.sizes < 1).any(1) | (ends > chosen.data.numel())
        if bool(bad.any()):
            n = int(bad.nonzero()[0])
            raise ValueError(
                f"image {n} of {tuple(chosen.sizes[n].tolist())} pixels, starting at byte {int(chosen.offsets[n])}, "
                f"does not fit into {chosen.data.numel()} bytes"
            )
    return sources


def _one_per_view(
    config: AugmentConfig | int | Sequence[AugmentConfig], views: int | None
) -> tuple[AugmentConfig, ...]:
    """Return the configuration of every view."""
    if isinstance(config, (AugmentConfig, int)):
        views = 2 if views is None else views
        if not 1 <= views <= 65536:
            raise ValueError(f"views must be 1 to 65536, got {views}")
        return (config if isinstance(config, AugmentConfig) else AugmentConfig(config),) * views
    if not isinstance(config, Sequence) or isinstance(config, str) or not config:
        raise TypeError(f"config must be an AugmentConfig, a size, or one AugmentConfig per view, got {config!r}")
    for each in config:
        if not isinstance(each, AugmentConfig):
            raise TypeError(f"config must have an AugmentConfig per view, got {type(each).__name__}")
        for name in ("size", "style", "brightness", "mean", "std", "channels"):
            ours, first = getattr(each, name), getattr(config[0], name)
            if ours != first:
                raise ValueError(f"all views must have the same {name}, got {first!r} and {ours!r}")
    if views not in (None, len(config)):
        raise ValueError(f"views must equal the number of configurations, {len(config)}, got {views}")
    return tuple(config)


class SimCLRAugment(nn.Module):
    """Two (or more) random views of every image of a batch: ``views = augment(images, ids, epoch)``.

    What happens to image i in view v depends on (seed, epoch, ids[i], v) alone, and not on the batch, the order, the
    threads, the device or the number of processes.

    Args:
        config: the transformation; an int is the size of an otherwise default `AugmentConfig`. A sequence has one per
            view; all share size, style and normalisation.
        views: number of views V. Default: 2, or the length of the sequence.
        seed: 0 to 2^63 - 1.
        dtype: of the views: float32, bfloat16, float16, uint8 (values times 255, rounded; no normalisation), or float64
            with ``impl="reference"``.
        channels_last: store every ``[N, C, S, S]`` in channels_last format.
        first_view: index of the first view in the random streams, 0 to 65535: a module with ``first_view=2`` continues
            the views of a module with two views.
        impl: ``"native"``: the C++ or CUDA operator. ``"reference"``: PyTorch, image by image. ``"auto"``: native
            if it is built for the images' device, otherwise the reference with a warning.

    Raises:
        TypeError: `config` or `dtype` has the wrong type.
        ValueError: another argument is out of range.

    Source: per sample equal to torchvision's v2 transforms on float images, or to SimCLR's TensorFlow code; see
    `AugmentConfig`.
    """

    def __init__(
        self,
        config: AugmentConfig | int | Sequence[AugmentConfig],
        views: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        impl: str = "auto",
        first_view: int = 0,
    ) -> None:
        super().__init__()
        configs = _one_per_view(config, views)
        views = len(configs)
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
        allowed = (*DTYPES, torch.float64) if impl == "reference" else DTYPES
        if dtype not in allowed:
            raise TypeError(f"dtype must be one of {', '.join(map(str, allowed))} for impl={impl!r}, got {dtype}")
        if not 0 <= first_view <= 65536 - views:
            raise ValueError(f"first_view must be 0 to {65536 - views} for {views} views, got {first_view}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be 0 to 2^63 - 1, got {seed}")
        self.configs, self.config = configs, configs[0]
        if dtype == torch.uint8 and self.config.mean is not None:
            raise ValueError(f"uint8 views are not normalised: drop mean={self.config.mean} or use another dtype")
        self.views, self.seed, self.dtype, self.channels_last, self.impl = views, seed, dtype, channels_last, impl
        self.first_view = first_view
        # (first view, count, sampler) of each sampler call: one for all views if they are alike, else one per view
        alike = len(set(configs)) == 1
        draws = [(0, views, self.config)] if alike else [(v, 1, each) for v, each in enumerate(configs)]
        self._draws = [(first, count, each.sampler()) for first, count, each in draws]

    @staticmethod
    def supports(device: torch.device | str) -> bool:
        """Return whether the native operator can run on tensors of `device`."""
        kind = torch.device(device).type
        return kind in ("cpu", "cuda") and native.kernels(kind).loaded

    def _native(self, device: torch.device) -> bool:
        """Whether to run the native operator on tensors of `device`.

        Raises:
            RuntimeError: ``impl="native"``, but the operator is not built for this device.
        """
        if self.impl == "reference":
            return False
        if self.supports(device):
            return True
        known = device.type in ("cpu", "cuda")
        reason = native.kernels(device.type).reason if known else "there is none"
        remedy = native.kernels(device.type).remedy if known else "move the images to the CPU"
        message = f"no native augmentation for {device.type} tensors: {reason}; to fix it: {remedy}"
        if self.impl == "native":
            raise RuntimeError(message)
        warnings.warn(f"{message}. Using the slow reference implementation.", RuntimeWarning, stacklevel=4)
        return False

    def _draw(self, ids: Tensor, epoch: int, sizes: Tensor) -> Tensor:
        """Check ids and epoch, then draw packed parameters."""
        if not 0 <= epoch < 2**32:
            raise ValueError(f"epoch must be 0 to 2^32 - 1, got {epoch}")
        _check_integers("ids", ids, sizes.device)
        if len(ids) != len(sizes):
            raise ValueError(f"{len(ids)} ids for {len(sizes)} images")
        _check_range("ids", ids, None)
        draw = ops.augment_params if self._native(ids.device) else reference.augment_params
        packed = [
            draw(
                ids,
                sizes,
                seed=self.seed,
                epoch=epoch,
                first_view=self.first_view + first,
                views=views,
                size=self.config.size,
                sampler=sampler,
            )
            for first, views, sampler in self._draws
        ]
        return packed[0] if len(packed) == 1 else torch.cat(packed)

    def _compute(self, sources: _Sources, packed: Tensor) -> Tensor:
        """Compute the views of checked sources and parameters."""
        compute = ops.augment_apply if self._native(sources.data.device) else reference.augment_apply
        return compute(
            sources.data,
            sources.offsets,
            sources.sizes,
            packed,
            size=self.config.size,
            style=self.config.style_code,
            planar=sources.planar,
            mean=self.config.mean or (),
            std=self.config.std or (),
            dtype=self.dtype,
            channels_last=self.channels_last,
            channels=sources.channels,
        )

    def params(self, ids: Tensor, epoch: int, sizes: Tensor | tuple[int, int]) -> AugmentParams:
        """Draw the parameters of all views.

        Args:
            ids: int64 ``[N]``, at least 0; an image must keep its id in all epochs.
            epoch: 0 to 2^32 - 1.
            sizes: height and width of the images: int64 ``[N, 2]`` on the device of `ids`, or one pair for all of them.

        Raises:
            TypeError: a tensor has the wrong dtype.
            ValueError: a shape, a device or a value is wrong.
        """
        if not isinstance(sizes, Tensor):
            height, width = sizes
            sizes = _filled_sizes(ids, height, width)
        if sizes.dtype != torch.int64:
            raise TypeError(f"sizes must be int64, got {sizes.dtype}")
        if sizes.dim() != 2 or sizes.shape[1] != 2:
            raise ValueError(f"sizes must be [N, 2]: height and width of every image, got {tuple(sizes.shape)}")
        if _can_look(sizes) and len(sizes) and not 1 <= int(sizes.min()) <= int(sizes.max()) <= 2**24:
            raise ValueError(f"sizes must be 1 to 2^24 pixels, got {int(sizes.min())} to {int(sizes.max())}")
        return AugmentParams(self._draw(ids, epoch, sizes))

    @overload
    def apply(self, images: Callable[[nn.Module], None]) -> SimCLRAugment:
        """Act as `nn.Module.apply`."""

    @overload
    def apply(self, images: Tensor | RaggedImages, params: AugmentParams, indices: Tensor | None = None) -> Tensor:
        """Compute the views."""

    def apply(
        self,
        images: Tensor | RaggedImages | Callable[[nn.Module], None],
        params: AugmentParams | None = None,
        indices: Tensor | None = None,
    ) -> Tensor | SimCLRAugment:
        """Compute the views that `params` describes.

        Args:
            images: uint8 ``[N, H, W, C]`` or ``[N, C, H, W]`` with the configuration's number of channels C, or
                `RaggedImages`. An ambiguous tensor (``[N, C, W, C]``) is read as ``[N, H, W, C]``.
            params: of N images; any number of views.
            indices: int64 ``[N]``: use these rows of `images`, which can be a whole dataset; no copy is made.

        Returns:
            ``[V, N, C, S, S]``, not differentiable.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: shapes or devices do not match, an index is out of range, or a crop box leaves its image.
            RuntimeError: ``impl="native"``, but the operator is not built for the device.
        """
        if params is None and not isinstance(images, (Tensor, RaggedImages)) and callable(images):
            # nn.Module.apply: called by the apply of a model that contains this module
            return super().apply(images)
        if not isinstance(params, AugmentParams):
            raise TypeError(f"params must be AugmentParams, got {type(params).__name__}")
        sources = _sources(images, indices, self.config.channels)
        if len(params) != len(sources.offsets):
            raise ValueError(f"params are for {len(params)} images, got {len(sources.offsets)} images")
        if params.packed.device != sources.data.device:
            raise ValueError(f"params are on {params.packed.device}, but images on {sources.data.device}")
        _check_boxes(params, sources.sizes)
        return self._compute(sources, params.packed)

    def forward(self, images: Tensor | RaggedImages, ids: Tensor, epoch: int, indices: Tensor | None = None) -> Tensor:
        """Draw parameters and compute the views: ``apply(images, params(ids, epoch, sizes), indices)``.

        Args:
            images: as for `apply`.
            ids: int64 ``[N]`` on the device of `images`.
            epoch: 0 to 2^32 - 1.
            indices: as for `apply`.

        Returns:
            ``[V, N, C, S, S]`` of `dtype`, on the device of `images`, not differentiable.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: a shape, a device or a value is wrong.
        """
        sources = _sources(images, indices, self.config.channels)
        return self._compute(sources, self._draw(ids, epoch, sources.sizes))

    def extra_repr(self) -> str:
        """The options that distinguish one module from another."""
        configs = self.config if len(set(self.configs)) == 1 else self.configs
        return f"{configs}, views={self.views}, seed={self.seed}, dtype={self.dtype}, impl={self.impl!r}"
