"""A source of image files: a folder, an archive, or WebDataset shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from fastclr.data.decode_many import DecodeOptions, estimated_bytes
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.image_source import LoadOptions, Split
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.label_subsets import strata, stratified
from fastclr.data.loader_choice import ChosenKind, LoaderKind, choose_loader
from fastclr.data.make_sets import Groups, class_labels, class_names, decode_entries, index_entries
from fastclr.data.value_range import scaling_of_files
from fastclr.sources.decode import SUFFIXES
from fastclr.sources.entries import TEST_SPLITS, Entry, Source
from fastclr.sources.label_file import Labels, label_entries
from fastclr.sources.stamp import stamp


@dataclass(frozen=True)
class FileSource:
    """Image files by split; methods as in :class:`~fastclr.data.image_source.ImageSource`.

    Args:
        name: the source as it was named, for messages.
        contents: its files, their splits and their classes.

    Raises:
        ValueError: there are no training images.
    """

    name: str
    contents: Source

    def __post_init__(self) -> None:
        """Check that there are training images."""
        if not self.contents.groups.get("train"):
            files = self.contents.files
            raise ValueError(
                f"no images in {files.source}: it has {len(files.names)} other files and {len(files.skipped)} entries "
                f"that are not read (links, pipes); images end in {', '.join(SUFFIXES)}"
            )

    @property
    def groups(self) -> dict[str, list[Entry]]:
        """The files of each split."""
        return self.contents.groups

    def relabelled(self, mapping: Labels) -> FileSource:
        """Return the source with the classes of ``mapping``."""
        groups = label_entries(self.groups, mapping, self.contents.files.source, self.contents.files.names)
        return replace(self, contents=replace(self.contents, groups=groups, classes=None))

    def load_splits(self, options: LoadOptions, with_test: bool) -> Splits:
        """Decode or index the images; where nothing else is there to test on, hold out a part of every class."""
        source = self if options.labels is None else self.relabelled(options.labels)
        train, test, held_out = source.groups["train"], [], False
        if with_test and source._testable(train):
            test = source._test_entries(TEST_SPLITS, source.contents.classes or class_names(train))
            if not test and options.holdout > 0:
                train, test = hold_out(train, options.holdout, options.seed)
                held_out = bool(test)
        scaling = scaling_of_files(self.contents.files, train, options.decode)
        decode = replace(options.decode, reading=scaling.reading)
        count = len(train) + len(test)
        kind, reason = choose_loader(options.loader, self.contents.files, count, decode, options.device)
        groups = [("train", train), ("test", test)] if test else [("train", train)]
        sets = self._make_sets(kind, groups, source.contents.classes or class_names(train), decode)
        test_set = sets[1] if test else None
        return Splits(sets[0], test_set, held_out, kind, reason, scaling.range, scaling.text)

    def load_dataset(self, split: Literal["train", "test"], options: DecodeOptions) -> ImageDataset:
        """Decode one split."""
        found = "train" if split == "train" else next((name for name in TEST_SPLITS if name in self.groups), None)
        if found is None:
            raise ValueError(
                f"{self.name} has no test split: it needs a folder train and one of {', '.join(TEST_SPLITS)}"
            )
        entries = self.groups[found]
        classes = self.contents.classes or class_names(self.groups["train"]) or class_names(entries)
        return decode_entries(self.contents.files, [(split, entries)], classes, options)[0]

    def load_test(
        self, classes: tuple[str, ...], kind: ChosenKind, options: DecodeOptions
    ) -> ImageDataset | ImageIndex:
        """Decode or index the images of the test split, or of the training split, that have a label or a caption."""
        entries = self._test_entries((*TEST_SPLITS, "train"), classes)
        if not entries:
            raise ValueError(f"the test images in {self.name} are unlabelled: they need a folder for each class")
        return self._make_sets(kind, [("test", entries)], classes, options)[0]

    def listed(self, split: Split) -> tuple[list[Entry], tuple[str, ...]]:
        """Return the images of one split or of all by their path in the source, and their classes."""
        if split == "test":
            chosen = next(([name] for name in TEST_SPLITS if name in self.groups), [])
        else:
            chosen = list(self.groups) if split == "all" else ["train"]
        entries = [entry for name in chosen for entry in self.groups[name]]
        if not entries:
            raise ValueError(f"{self.name} has no images of the split {split}")
        everything = [entry for group in self.groups.values() for entry in group]
        classes = self.contents.classes or class_names(everything)
        return [replace(entry, name=entry.path, id=row) for row, entry in enumerate(entries)], classes

    def content_digest(self, split: Split) -> str:
        """Return a digest of sizes and times of change."""
        return stamp(self.contents.files.source, [entry.name for entry in self.listed(split)[0]])

    def load_listed(
        self, split: Split, loader: LoaderKind, options: DecodeOptions, device: torch.device
    ) -> Iterator[tuple[ImageDataset | ImageIndex, ChosenKind]]:
        """Index the images of `listed`, or decode as many at a time as memory holds."""
        entries, classes = self.listed(split)
        kind, _ = choose_loader(loader, self.contents.files, len(entries), options, device)
        needed, held = estimated_bytes(self.contents.files, len(entries), options), options.budget()
        # half of what may be held: the estimate comes from a sample
        passes = -(-needed // max(held // 2, 1)) if kind == "resident" and needed > held else 1
        step = -(-len(entries) // min(passes, len(entries)))
        for start in range(0, len(entries), step):
            yield self._make_sets(kind, [(split, entries[start : start + step])], classes, options)[0], kind

    def _test_entries(self, splits: Collection[str], classes: tuple[str, ...]) -> list[Entry]:
        """Return the images of the first of ``splits`` that has some to test on; without ``classes``, unlabelled."""
        entries = next((found for name in splits if (found := self._testable(self.groups.get(name, [])))), [])
        return entries if classes else [replace(entry, kind=None) for entry in entries]

    def _testable(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries with something to compare predictions with: a caption or a class."""
        return entries if self.contents.captioned else labelled(entries)

    def _make_sets(
        self, kind: ChosenKind, groups: Groups, classes: tuple[str, ...], options: DecodeOptions
    ) -> list[ImageDataset] | list[ImageIndex]:
        """Decode or index the images of each group."""
        make = decode_entries if kind == "resident" else index_entries
        return make(self.contents.files, groups, classes, options)


def labelled(entries: list[Entry]) -> list[Entry]:
    """Return the entries whose class is known."""
    return [entry for entry in entries if entry.kind is not None]


def hold_out(entries: list[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Divide entries into those to keep and a random ``fraction`` of every class, or of all if there are no classes."""
    rows = set(stratified(strata(class_labels(entries, class_names(entries))), fraction, seed).tolist())
    kept = [entry for row, entry in enumerate(entries) if row not in rows]
    return kept, [entry for row, entry in enumerate(entries) if row in rows]
