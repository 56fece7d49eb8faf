"""A source whose images are pixels already: shapes, CIFAR, STL-10, arrays, and what a program holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.image_source import LoadOptions, Split
from fastclr.data.label_subsets import strata, stratified
from fastclr.data.loader_choice import ChosenKind, LoaderKind
from fastclr.data.make_sets import label_splits, renumbered, unlabelled
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.entries import Entry
from fastclr.sources.label_file import Labels


@dataclass(frozen=True)
class PixelSource:
    """Decoded images by split; methods as in :class:`~fastclr.data.image_source.ImageSource`.

    Args:
        name: the source as it was named, for messages.
        decoded: its splits; both hold pixels.
    """

    name: str
    decoded: Splits

    @property
    def datasets(self) -> dict[str, ImageDataset]:
        """The data set of each split."""
        found = {"train": self.decoded.train, "test": self.decoded.test}
        return {split: cast(ImageDataset, dataset) for split, dataset in found.items() if dataset is not None}

    def relabelled(self, mapping: Labels) -> PixelSource:
        """Return the source with the classes of ``mapping``."""
        return replace(self, decoded=label_splits(self.decoded, mapping))

    def captioned(self, options: CaptionOptions) -> PixelSource:
        """Return the source if its images have captions.

        Raises:
            ValueError: they have none.
        """
        if options.place != "auto" or any(dataset.captions is None for dataset in self.datasets.values()):
            raise ValueError(
                f"captions={options.place!r} cannot be had for {self.name}, which holds pixels: only captions='auto', "
                "for shapes, or for a Dataset or arrays that have captions; store other images as files"
            )
        return self

    def load_splits(self, options: LoadOptions, with_test: bool) -> Splits:
        """Return the splits; where there is nothing to test on, hold out a part of every class."""
        self._check_loader(options.loader)
        check_not_resized(self.datasets["train"], options.decode.resize_shorter)
        decoded = self.decoded if options.labels is None else label_splits(self.decoded, options.labels)
        if not with_test:
            return replace(decoded, test=None)
        if decoded.test is not None or options.holdout == 0:
            return decoded
        return held_out(decoded, options.holdout, options.seed)

    def load_dataset(self, split: Literal["train", "test"], options: DecodeOptions) -> ImageDataset:
        """Return one split."""
        check_not_resized(self.datasets["train"], options.resize_shorter)
        return self.datasets.get(split, self.datasets["train"])

    def load_test(self, classes: tuple[str, ...], kind: ChosenKind, options: DecodeOptions) -> ImageDataset:
        """Return the test split; it lies in memory whatever ``kind`` says."""
        images = self.datasets.get("test", self.datasets["train"])
        return renumbered(images if classes or images.captions is None else unlabelled(images), classes)

    def listed(self, split: Split) -> tuple[list[Entry], tuple[str, ...]]:
        """Return the images of one split or of all, each with its split as the first part of its name, and classes."""
        entries: list[Entry] = []
        for part, dataset in self._chosen(split):
            kinds = [*dataset.classes, None]  # label -1 selects the last: unknown
            for name, label in zip(dataset.names, dataset.labels.tolist(), strict=True):
                path = name if name.startswith(f"{part}/") else f"{part}/{name}"
                entries.append(Entry(path, path, len(entries), kinds[label]))
        return entries, self.datasets["train"].classes

    def content_digest(self, split: Split) -> str:
        """Return a digest of the pixels."""
        return "-".join(dataset.image_fingerprint for _, dataset in self._chosen(split))

    def load_listed(
        self, split: Split, loader: LoaderKind, options: DecodeOptions, device: torch.device
    ) -> Iterator[tuple[ImageDataset, ChosenKind]]:
        """Yield the data set of each split."""
        self._check_loader(loader)
        names, start = [entry.name for entry in self.listed(split)[0]], 0
        for _, dataset in self._chosen(split):
            stop = start + len(dataset)
            yield replace(dataset, ids=torch.arange(start, stop), names=tuple(names[start:stop])), "resident"
            start = stop

    def _chosen(self, split: Split) -> list[tuple[str, ImageDataset]]:
        """Return name and data set of one split or of all."""
        chosen = [(name, dataset) for name, dataset in self.datasets.items() if split in ("all", name)]
        if not chosen:
            raise ValueError(f"{self.name} has no images of the split {split}")
        return chosen

    def _check_loader(self, loader: LoaderKind) -> None:
        """Raise a ValueError where files are to be decoded."""
        if loader not in ("auto", "resident"):
            raise ValueError(f"loader {loader} decodes files, but {self.name} holds pixels: use auto or resident")


def held_out(splits: Splits, fraction: float, seed: int) -> Splits:
    """Return the splits with a random ``fraction`` of every class of the training images to test on."""
    train = splits.train
    rows = stratified(train.labels if train.captions is None else strata(train.labels), fraction, seed)
    if len(rows) == 0:
        return splits
    keep = torch.ones(len(splits.train), dtype=torch.bool)
    keep[rows] = False
    train = splits.train.select(keep.nonzero().flatten())
    return replace(splits, train=train, test=splits.train.select(rows), held_out=True)


def image_at(dataset: ImageDataset, index: int) -> Tensor:
    """Return one image of a data set, uint8 ``[H, W, 3]``."""
    images = dataset.images
    return images.image(index) if isinstance(images, RaggedImages) else images[index]


def check_not_resized(dataset: ImageDataset, resize_shorter: int | None) -> None:
    """Raise ValueError where ``resize_shorter`` asks for less than a set of pixels has; it would have no effect."""
    shorter = min(dataset.images.shape[1:3]) if isinstance(dataset.images, Tensor) else 0
    if resize_shorter is not None and resize_shorter < shorter:
        raise ValueError(
            f"resize_shorter is for image files, and {dataset.source} holds {shorter} px images as pixels: "
            f"leave resize_shorter={resize_shorter} out, the augmentation resizes anyway"
        )
