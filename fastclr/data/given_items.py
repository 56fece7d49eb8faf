"""Read a map-style dataset: the image, label and captions of every item, and why others are left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.decode_many import DecodeOptions, check_memory, check_readable, pack
from fastclr.data.given_pixels import item_pixels
from fastclr.data.item_reader import Item, read_in_order, workers_for
from fastclr.sources.captions import NO_CAPTION, CaptionOptions, captions_of, check_captioned
from fastclr.sources.decode import explain, pillow
from fastclr.sources.printable import progress_bar
from fastclr.sources.reading import Pixels

IMAGE_KEYS = ("image", "img", "pixel_values", "images")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class")
READ_TWICE = 4  # images that must be the same when they are asked for again

# pixels, positions, labels and captions, and why others were left out, by position
Items = tuple[Tensor | RaggedImages, list[int], list[tuple[Any, tuple[str, ...]]], dict[int, str]]


@dataclass
class ItemReader:
    """Reads one item of a map-style dataset; processes may share it.

    Args:
        dataset: the dataset.
        options: how large images are made, and what becomes of other depths.
        title: of the dataset, for messages.
        captions: what the captions are called, if they are asked for.
    """

    dataset: Any
    options: DecodeOptions
    title: str
    captions: CaptionOptions | None = None

    def __call__(self, row: int) -> Item:
        """Return pixels with label and captions, the reason why there are none, or the error that ends the reading."""
        try:
            item = self.dataset[row]
        except Exception as error:  # what a dataset of damaged files raises
            return explain(error)
        try:
            image, kind, texts = parts_of(item, self.title, self.captions)
            known = kind, () if self.captions is None else captions_of(texts)
            return item_pixels(image, self.options, pillow(), self.title), known
        except (TypeError, ValueError) as error:
            return error
        except Exception as error:  # of an image that Pillow reads only now
            return explain(error)

    def twice(self, row: int) -> Item:
        """Read an item and make sure that it is the same when it is asked for again."""
        found, again = self(row), self(row)
        if not isinstance(found, tuple) or not isinstance(again, tuple):
            return found
        if not np.array_equal(found[0], again[0]):
            return ValueError(
                f"{self.title} gives another image for {row} each time: leave its random transforms out, because "
                "fastclr augments the images itself"
            )
        if found[1][1] != again[1][1]:
            return ValueError(
                f"{self.title} gives another caption for {row} each time: give all captions of an image as a list, of "
                "which fastclr draws one in each epoch"
            )
        return found


def read_items(dataset: Any, options: DecodeOptions, title: str, captions: CaptionOptions | None = None) -> Items:
    """Read all items of a map-style dataset; what cannot be read, or lacks a caption that is asked for, is left out.

    Raises:
        TypeError: an item holds no image.
        ValueError: as for `open_given`.
    """
    count = len(dataset)
    if count == 0:
        raise ValueError(f"{title} is empty")
    pillow()
    read, first = ItemReader(dataset, options, title, captions), min(READ_TWICE, count)
    rest = read_in_order(read, range(first, count), workers_for(dataset, options.workers))
    pixels: list[Pixels] = []
    rows: list[int] = []
    known: list[tuple[Any, tuple[str, ...]]] = []
    failed: dict[int, str] = {}
    lost: dict[int, str] = {}
    total, limit = 0, options.budget()
    with progress_bar(total=count, desc="reading", unit=" images") as bar:
        for row, found in enumerate(itertools.chain(map(read.twice, range(first)), rest)):
            bar.update()
            if isinstance(found, Exception):
                raise found
            if isinstance(found, str):
                failed[row] = found
                continue
            kind, texts = found[1]
            if isinstance(texts, str):
                lost[row] = NO_CAPTION + texts
                continue
            pixels.append(found[0])
            rows.append(row)
            known.append((kind, texts))
            total += found[0].nbytes
            if total * count > limit * len(rows) or total > limit:
                check_memory(title, round(total * count / len(rows)), count, limit, options)
    check_readable(title, {str(row): reason for row, reason in failed.items()}, count)
    check_captioned(title, [(str(row), reason) for row, reason in lost.items()], count)
    return pack(pixels), rows, known, dict(sorted((failed | lost).items()))


def parts_of(item: Any, title: str, captions: CaptionOptions | None = None) -> tuple[Any, Any, Any]:
    """Return image, label and, if they are asked for, captions of an item of a dataset; None where there are none."""
    if isinstance(item, Mapping):
        names = IMAGE_KEYS if captions is None or captions.columns is None else captions.columns[:1]
        image = next((item[key] for key in names if key in item), None)
        if image is None:
            raise TypeError(f"{title} must have one of {', '.join(names)} in its items, got {sorted(item)}")
        texts = next((item[key] for key in (captions.names if captions else ()) if key in item), None)
        return image, next((item[key] for key in LABEL_KEYS if key in item), None), texts
    if not isinstance(item, (tuple, list)):
        return item, None, None
    image, label, texts = (*item, None, None)[:3]
    return (image, None, label) if captions is not None and len(item) == 2 else (image, label, texts)
