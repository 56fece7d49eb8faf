"""Multi-crop: two large views of an image, and several small ones of small parts of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fastclr.augment import AugmentConfig
from fastclr.methods.options import Check, ViewPairOptions

GLOBAL = 2  # large views
FEW_PIXELS = 4


@dataclass(frozen=True, kw_only=True)
class MultiCropOptions(ViewPairOptions):
    """The options of methods whose views differ in size: the first two are large, all others small."""

    local_views: int = 8
    """Small views of an image, beside its two large ones; 0: none."""
    local_size: int | None = None
    """Side of the small views in pixels. Default: three sevenths of the large ones' (96 for 224), a multiple of 4."""
    local_least: float = 0.05
    """Smallest area of a small view's crop, as a share of the image."""
    crop_split: float = 0.4
    """Largest area of a small view's crop, and smallest of a large one's; 0.14 for ResNets on ImageNet."""
    local_blur_p: float | None = None
    """Probability of a blur in the small views; None: as in the first view."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            ("local_views", 0 <= self.local_views <= 64, "0 to 64"),
            ("local_size", self.local_size is None or self.local_size >= 1, "a positive number or None"),
            ("local_least", 0 < self.local_least <= self.crop_split, f"above 0, at most crop_split={self.crop_split}"),
            ("crop_split", self.crop_split <= 1, "at most 1"),
            ("local_blur_p", self.local_blur_p is None or 0 <= self.local_blur_p <= 1, "a probability or None"),
        ]

    def pair(self, augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
        """Return the augmentation of each view; without small views, the large ones have the crops of `augment`."""
        large = super().pair(augment)
        if not self.local_views:
            return large
        size = self.local_size or max(FEW_PIXELS, augment.size * 3 // 7 // FEW_PIXELS * FEW_PIXELS)
        blur = augment.blur_p if self.local_blur_p is None else self.local_blur_p
        least = self.local_least, self.crop_split
        small = dataclasses.replace(augment, size=size, crop_scale=least, blur_p=blur)
        most = self.crop_split, max(self.crop_split, augment.crop_scale[1])
        return (*(dataclasses.replace(each, crop_scale=most) for each in large), *[small] * self.local_views)

    @property
    def view_count(self) -> int:
        """Number of views of an image."""
        return GLOBAL + self.local_views
