"""What every source of images can do, whether it holds files to decode or pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from fastclr.data.decode_many import DecodeOptions
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.loader_choice import ChosenKind, LoaderKind
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.entries import Entry
from fastclr.sources.label_file import Labels

Split = Literal["all", "train", "test"]


@dataclass(frozen=True)
class LoadOptions:
    """How the splits of a source are made; see :func:`fastclr.data.load_splits`.

    Args:
        holdout: part of every class that is held out when there is no test set.
        seed: decides which images are held out.
        labels: classes by name of an image, in place of the source's own; None keeps these.
        decode: how images are decoded.
        loader: which loader the images are for.
        device: where the images will go.
        follow_links: symbolic links are followed that lead into this folder.
        captions: where the captions are, if they are asked for.
    """

    holdout: float
    seed: int
    labels: Labels | None
    decode: DecodeOptions
    loader: LoaderKind
    device: torch.device | str
    follow_links: str | Path | None = None
    captions: CaptionOptions | None = None


class ImageSource(Protocol):
    """A source that has been opened: its images are known, but those in files are not decoded."""

    @property
    def name(self) -> str:
        """The source as it was named, for messages."""

    def relabelled(self, mapping: Labels) -> ImageSource:
        """Return the source with the classes of ``mapping``; a split with no image in it keeps its own classes.

        Raises:
            ValueError: ``mapping`` names an image that the source does not have.
        """

    def load_splits(self, options: LoadOptions, with_test: bool) -> Splits:
        """Return the images to train on and, ``with_test``, those to test on.

        Raises:
            ValueError: ``options`` does not fit the source, or the images cannot be read or do not fit into memory.
        """

    def load_dataset(self, split: Literal["train", "test"], options: DecodeOptions) -> ImageDataset:
        """Return one split, decoded.

        Raises:
            ValueError: there is no such split, or the images cannot be read or do not fit into memory.
        """

    def load_test(
        self, classes: tuple[str, ...], kind: ChosenKind, options: DecodeOptions
    ) -> ImageDataset | ImageIndex:
        """Return the test split, or all images where there is none, with labels that are indices into ``classes``.

        Raises:
            ValueError: the images are unlabelled or of other classes, or cannot be read.
        """

    def listed(self, split: Split) -> tuple[list[Entry], tuple[str, ...]]:
        """Return the images of one split or of all, and their classes; names are paths, and ids count from 0.

        Raises:
            ValueError: there is none.
        """

    def content_digest(self, split: Split) -> str:
        """Return a digest of the images of `listed` by which others under the same names are known.

        Of pixels, or of sizes and times of change of files; it may depend on where they are stored.
        """

    def load_listed(
        self, split: Split, loader: LoaderKind, options: DecodeOptions, device: torch.device
    ) -> Iterator[tuple[ImageDataset | ImageIndex, ChosenKind]]:
        """Yield the readable images of `listed` in order, with the loader for them, in as many sets as memory needs.

        Raises:
            ValueError: the loader does not fit the source, or the images cannot be read.
        """
