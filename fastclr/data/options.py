"""What can be chosen about the images and how they get to the device."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import get_args

from fastclr.data.loader_choice import LoaderKind
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.reading import RANGE_HELP, ChannelAxis, Pages, RangeChoice, is_range


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The images: where they lie, what is tested on, how they are read."""

    data: str = ""
    """Images: `shapes`, `cifar10`, `cifar100`, `stl10`, a folder, a tar, shards `x-{00..99}.tar`, a .csv of paths."""
    test_data: str | None = None
    """Labelled images to evaluate on. Default: the test split of `data`, or a held-out share of it."""
    given_data: Sized | None = field(default=None, repr=False, compare=False)
    """The images themselves, where a Dataset or arrays were given in Python. Never stored."""
    given_test_data: Sized | None = field(default=None, repr=False, compare=False)
    """Likewise those to test on."""
    holdout: float = 0.1
    """Share of `data` kept from training for evaluation when it is labelled and has no test split."""
    resize_shorter: int | None = None
    """Shrink larger images to this shorter side while loading, so that the set fits into memory."""
    labels: str | None = None
    """CSV file with the columns name (or file_name) and label that gives the classes; without it, folders do."""
    captions: str | None = None
    """Captions: `auto` (.txt, else .json, beside images or in samples; columns of a table), `txt`, `json` or a .csv."""
    caption_columns: tuple[str, str] | None = None
    """Header of the images and of the captions in a .csv, .tsv, .parquet or .arrow. Default: the usual names."""
    caption_key: str = ""
    """Key of the captions in a .json, an item of a Dataset or an .npz. Default: caption, captions or text."""
    data_root: str = "data"
    """Folder with the files of `cifar10`, `cifar100` and `stl10`."""
    download: bool = False
    """Fetch them, and the weights that --pretrained asks for, when they are not there."""
    cache: str = "auto"
    """Where decoded images are kept for the next run: `auto` is ~/.cache/fastclr, `off` nowhere, or a folder."""
    follow_links: str | None = None
    """Follow symbolic links that lead into this folder. Without it, many images behind links are an error."""
    loader: LoaderKind = "auto"
    """`resident` keeps decoded images; `dali`, `torch` decode every epoch; `auto`: resident if it fits, else dali."""
    workers: int | None = None
    """Threads (resident, dali) or processes (torch) that decode. Default: one per core."""
    memory: float | None = None
    """GB of main memory for pixels, decoding, batches and views, not for the network. Default: half of what is free."""
    range: RangeChoice | None = None
    """Values that become 0 and 255 in images of more than 8 bits: `LO HI`, `auto` (percentiles 0.1 and 99.9 of a sample
    of the training images), or `file` (of each file its smallest and largest). Default: the full range of the type."""
    channel_axis: ChannelAxis = "auto"
    """Where arrays have their channels: `first` is [C, H, W], `last` is [H, W, C]; `auto` where one of them fits."""
    pages: Pages = "first"
    """Of a file of several images (TIFF, DICOM): the `first`, or all, each a channel (`channels`)."""
    prefetch: int = 2
    """Batches that dali, or each worker of torch, decodes ahead of the training step."""

    def checks(self) -> list[tuple[str, bool, str]]:
        """Return what must hold of the values: field, whether it does, what it must be."""
        return [
            ("data", isinstance(self.data, str), "a name or a path; fastclr.pretrain(data) takes Datasets and arrays"),
            ("labels", not (self.labels or "").endswith("%"), "a CSV file; --share takes a share such as 1%"),
            ("captions", self.captions != "", "auto, txt, json, a .csv or .tsv file, or None"),
            ("caption_columns", self.caption_columns is None or all(self.caption_columns), "two names or None"),
            ("holdout", 0.0 <= self.holdout < 1.0, "a number in [0, 1)"),
            ("resize_shorter", self.resize_shorter is None or self.resize_shorter >= 1, "a positive number or None"),
            ("loader", self.loader in get_args(LoaderKind), f"one of {get_args(LoaderKind)}"),
            ("workers", self.workers is None or self.workers >= 0, "at least 0 or None"),
            ("memory", self.memory is None or 0 < self.memory < float("inf"), "a positive number or None"),
            ("range", is_range(self.range), RANGE_HELP),
            ("channel_axis", self.channel_axis in get_args(ChannelAxis), f"one of {get_args(ChannelAxis)}"),
            ("pages", self.pages in get_args(Pages), f"one of {get_args(Pages)}"),
            ("prefetch", self.prefetch >= 1, "at least 1"),
        ]

    @property
    def caption_options(self) -> CaptionOptions | None:
        """Where the captions are; None if there is no need for them."""
        if self.captions is None:
            return None
        return CaptionOptions(self.captions, self.caption_key, self.caption_columns)

    @property
    def memory_limit(self) -> int | None:
        """`memory` in bytes."""
        return memory_bytes(self.memory)


def memory_bytes(memory: float | None) -> int | None:
    """Return GB in bytes; None is no limit of one's own.

    Raises:
        ValueError: it is not positive.
    """
    if memory is not None and not 0 < memory < float("inf"):
        raise ValueError(f"memory must be a positive number, got {memory}")
    return None if memory is None else max(int(memory * 1e9), 1)
