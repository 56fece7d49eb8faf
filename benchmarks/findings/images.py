"""The images of the findings: a number of training images of every class, and test images, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastclr.data import ImageDataset, Splits, load_splits, make_shapes
from fastclr.data.label_subsets import label_subset

SHAPES = "shapes"


@dataclass(frozen=True)
class Images:
    """What to read.

    Args:
        data: ``shapes``, or what `fastclr.pretrain` takes: a folder, a tar, the name of a published set.
        train: number of training images, in equal shares of the classes.
        test: most test images.
        size: of the views, in pixels; `shapes` are drawn in it.
    """

    data: str
    train: int
    test: int
    size: int

    def load(self, cache: Path) -> Splits:
        """Read the images, or the copy that the first reading left in `cache`.

        Raises:
            ValueError: there are no labels, no test images, or fewer than two classes.
        """
        if self.data == SHAPES:
            return make_shapes(self.train, self.test, self.size)
        found = load_splits(self.data, loader="resident", workers=1, cache=cache)
        train, test = found.train, found.test
        if not isinstance(train, ImageDataset) or not isinstance(test, ImageDataset):
            raise ValueError(f"{self.data} must have training and test images: the findings compare their accuracy")
        if not train.labelled or not test.labelled or len(train.classes) < 2:
            raise ValueError(f"all images of {self.data} need a label, of at least 2 classes, got {len(train.classes)}")
        return Splits(part(train, self.train), part(test, self.test))


def part(images: ImageDataset, count: int) -> ImageDataset:
    """Return about `count` images in equal shares of the classes, all if there are no more."""
    if len(images) <= count:
        return images
    return images.select(label_subset(images.labels, count / len(images), 0))
