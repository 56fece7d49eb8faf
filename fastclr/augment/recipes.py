"""Augmentations of other methods: one configuration per view, and multi-crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastclr.augment.config import AugmentConfig
from fastclr.augment.images import RaggedImages
from fastclr.augment.simclr import SimCLRAugment


def moco_v2(size: int = 224) -> AugmentConfig:
    """MoCo v2: weaker colours and larger crops than SimCLR.

    Source: Chen, Fan, Girshick and He, "Improved baselines with momentum contrastive learning", 2020, and its code.
    """
    return AugmentConfig(size, crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))


def byol(size: int = 224) -> tuple[AugmentConfig, AugmentConfig]:
    """BYOL: the first view is always blurred, the second rarely blurred and sometimes solarised.

    Source: Grill et al., "Bootstrap your own latent", NeurIPS 2020, appendix B.
    """
    first = AugmentConfig(size, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=1.0)
    second = AugmentConfig(size, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=0.1, solarize_p=0.2)
    return first, second


def swav(size: int = 224, small: int = 96, views: int = 2, small_views: int = 6) -> list[tuple[AugmentConfig, int]]:
    """SwAV's multi-crop, for `MultiCropAugment`: a few large views, and several small ones from small crops.

    Source: Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments", NeurIPS 2020.
    """
    large = AugmentConfig(size, crop_scale=(0.14, 1.0))
    return [(large, views), (AugmentConfig(small, crop_scale=(0.05, 0.14)), small_views)]


class MultiCropAugment(nn.Module):
    """Views of several sizes: ``large, small = augment(images, ids, epoch)``.

    Views are numbered consecutively across groups: each is what a `SimCLRAugment` with that ``first_view`` computes.

    Args:
        groups: for each size a configuration and its number of views, or a sequence with one configuration per view.
        seed: 0 to 2^63 - 1.
        dtype: as for `SimCLRAugment`.
        channels_last: as for `SimCLRAugment`.
        impl: as for `SimCLRAugment`.

    Raises:
        TypeError: a group is neither, or an argument has the wrong type.
        ValueError: there are no groups, or an argument is out of range.

    Source: the multi-crop of SwAV, Caron et al., NeurIPS 2020.
    """

    def __init__(
        self,
        groups: Sequence[tuple[AugmentConfig, int] | Sequence[AugmentConfig]],
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        if not groups:
            raise ValueError("groups is empty: expected at least one (AugmentConfig, views)")
        self.groups = nn.ModuleList()
        first = 0
        for group in groups:
            if not isinstance(group, Sequence) or not group:
                raise TypeError(f"a group must be (AugmentConfig, views) or a sequence of AugmentConfig, got {group!r}")
            config, views = (group[0], group[1]) if len(group) == 2 and isinstance(group[1], int) else (group, None)
            augment = SimCLRAugment(config, views, seed, dtype, channels_last, impl, first)  # type: ignore[arg-type]
            self.groups.append(augment)
            first += augment.views

    def forward(
        self, images: Tensor | RaggedImages, ids: Tensor, epoch: int, indices: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Compute all views.

        Args:
            images: uint8 ``[N, H, W, 3]`` or ``[N, 3, H, W]``, or `RaggedImages`.
            ids: int64 ``[N]`` on the device of `images`.
            epoch: 0 to 2^32 - 1.
            indices: int64 ``[N]``: use these rows of `images`, which can be a whole dataset.

        Returns:
            One ``[V, N, 3, S, S]`` per group, on the device of `images`, not differentiable.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: a shape, a device or a value is wrong.
        """
        return tuple(group(images, ids, epoch, indices) for group in self.groups)
