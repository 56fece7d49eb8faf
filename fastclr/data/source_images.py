"""The images of a source in a fixed order, read as a stream: what does not fit into memory can still be embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from fastclr.augment.images import RaggedImages
from fastclr.data.decode_many import DecodeOptions, decode_stream
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.make_sets import class_labels, class_names
from fastclr.data.open_source import open_source
from fastclr.sources.decode import Pixels
from fastclr.sources.entries import TEST_SPLITS
from fastclr.sources.folder import Files

Split = Literal["all", "train", "test"]


@dataclass(frozen=True)
class Source:
    """The images of a source in a fixed order; an image's row in it is its id.

    Args:
        names: path of each image.
        labels: int64 ``[N]``, -1 where the class is unknown.
        classes: names of the classes.
        content: the files to decode, or data sets that are in memory already.
        paths: row of each file, by its path.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    content: Files | list[ImageDataset]
    paths: dict[str, int]

    def read(self, rows: Collection[int], options: DecodeOptions) -> Iterator[tuple[int, Pixels | str]]:
        """Yield the pixels of `rows`, or the reason why there are none, in the order in which they are stored."""
        if isinstance(self.content, list):
            wanted, start = set(rows), 0
            for dataset in self.content:
                for index in range(len(dataset)):
                    if start + index in wanted:
                        yield start + index, picture(dataset, index)
                start += len(dataset)
            return
        chosen = set(rows)
        wanted_paths = [path for path, row in self.paths.items() if row in chosen]
        for path, result in decode_stream(self.content.read(wanted_paths), options):
            yield self.paths[path], result

    def digest(self) -> str:
        """Return a digest of names, labels and classes."""
        text = ascii([self.names, self.labels.tolist(), self.classes])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def picture(dataset: ImageDataset, index: int) -> Pixels:
    """Return one image of a data set as an array ``[H, W, 3]``."""
    images = dataset.images
    pixels = images.image(index) if isinstance(images, RaggedImages) else images[index]
    array: Pixels = pixels.cpu().numpy()
    return array


def list_images(source: str | Path, split: Split = "all") -> Source:
    """List the images of a folder, a tar, a CIFAR archive or ``shapes``, without decoding files.

    Args:
        source: as for `fastclr.data.load_splits`.
        split: ``all`` images, or those of one split.

    Raises:
        ValueError: there is no such source or split, or it holds no image.
    """
    if split not in ("all", "train", "test"):
        raise ValueError(f"split must be all, train or test, got {split!r}")
    opened = open_source(source)
    if isinstance(opened, Splits):
        found = {"train": opened.train, "test": opened.test}
        sets = {n: s for n, s in found.items() if s is not None and split in ("all", n)}
        if not sets:
            raise ValueError(f"{source} has no images of the split {split}")
        names = tuple(
            each if each.startswith(f"{name}/") else f"{name}/{each}"
            for name, dataset in sets.items()
            for each in dataset.names
        )
        labels = torch.cat([dataset.labels for dataset in sets.values()]).numpy()
        return Source(names, labels, opened.train.classes, cast(list[ImageDataset], list(sets.values())), {})
    files, groups = opened.files, opened.groups
    everything = [entry for entries in groups.values() for entry in entries]
    if split == "test":
        chosen = next(([name] for name in TEST_SPLITS if name in groups), [])
    else:
        chosen = list(groups) if split == "all" else ["train"]
    entries = [entry for name in chosen for entry in groups[name]]
    if not entries:
        raise ValueError(f"{source} has no images of the split {split}")
    classes = opened.classes or class_names(everything)
    paths = {entry.path: row for row, entry in enumerate(entries)}
    return Source(tuple(paths), class_labels(entries, classes).numpy(), classes, files, paths)
